"""Weights files: safetensors with config and integer tables, one for each quality, or one for a variable-rate model.

The entropy networks h_s and context are stored as integers (dkic.quantized); large weights of the transforms g_a, g_s and
h_a as int8 with a step for each output channel (dkic.models.int8_weights), all else as float16. The 2.7 M parameters
of tiny take 3.2 MB. Transforms compute in float32; the rounding for storage is part of the model.

    format 1    h_s and context float, in float16 as all the rest, and computed with in float64: what training leaves
    format 2    h_s and context in integers; the transforms in float16
    format 3    the same, and weights of the transforms in int8, those that the file has steps of: `steps.NAME`, float16 `[out]`

All formats are read; 1 and 3 are written. The file's hash names the model in every .dkic file, so a published file is
never changed: new weights get a new name.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.overrides import TorchFunctionMode

from dkic.entropy.arithmetic import Arithmetic
from dkic.entropy.quantization import MAX_QUALITY, PARTS, Quantizer, qstep_size
from dkic.entropy.tables import SCALES, Tables, gaussian_tables
from dkic.errors import DkicError
from dkic.models.codec_network import CodecNetwork
from dkic.models.dkic import DKIC
from dkic.models.int8_weights import from_int8, is_large, to_int8
from dkic.models.presets import config_of, network_of
from dkic.output_file import reason, write_atomically
from dkic.quantized import check_bounds, convert_empty, stored_names
from dkic.shipped_weights import file_hash

FORMATS = {1: Arithmetic.FLOAT64, 2: Arithmetic.EXACT, 3: Arithmetic.EXACT}
_TABLES = "tables."
_STEPS = "steps."
# The factorized prior is needed in training alone: its integer tables are in the file.
_TRAINING_ONLY = "prior."
_SCALE = ".scale"  # activation scales of a float network are not used


@dataclass(frozen=True)
class Weights:
    """A loaded file.

    model: in eval mode, in float32, channels_last, loaded on the CPU; h_s and context as `arithmetic` says. tables: 64 Gaussians,
    then one table for each channel of z. hash: the first 8 bytes of the file's SHA-256. about: training facts, as written.
    """

    path: Path
    model: CodecNetwork
    tables: Tables
    hash: bytes
    quality: int
    about: dict[str, Any]
    arithmetic: Arithmetic

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return next(self.model.g_a.parameters()).device

    @property
    def qualities(self) -> range:
        """The qualities of these weights."""
        return range(1, MAX_QUALITY + 1) if self.model.variable_rate else range(self.quality, self.quality + 1)

    def quality_at(self, quality: int, qstep: int) -> Tensor | None:
        """The quality input of a variable-rate model at an operating point: `[1]`, quality - qstep / 16; None for other models.

        Raises DkicError if it is not from 1 to 100, or qstep is 8, which is the next lower quality at -8.
        """
        if not self.model.variable_rate:
            return None
        at = quality - qstep / PARTS
        if not 1 <= at <= MAX_QUALITY:
            raise DkicError(f"quality {quality} with qstep {qstep:+} is beyond 1 to {MAX_QUALITY}")
        if qstep >= PARTS // 2:
            raise DkicError(f"a variable-rate model has qsteps -8 to 7, not {qstep:+}; take quality {quality - 1} with qstep -8")
        return torch.tensor([at], dtype=torch.float64, device=self.device)

    def quantization(self, quality: int, qstep: int) -> tuple[Tensor | None, Quantizer]:
        """`quality_at`, and the quantizer of the latent."""
        at = self.quality_at(quality, qstep)
        return at, Quantizer(qstep_size(qstep), qstep) if at is None else self.model.quantizer(at)


def save_weights(path: Path, model: CodecNetwork, quality: int, about: dict[str, Any], tables: Tables | None = None) -> None:
    """Writes a weights file.

    Args:
        model: quantized (`dkic.quantized.convert`), with large weights of the transforms stored in 8 bits; or float, with
            all weights stored in float16.
        quality: 1 to 255, rising with the rate.
        about: facts in JSON types.
        tables: those of z and y; by default made from model.prior.
    """
    _check_quality(quality)
    tables = tables or _tables_of(model)
    integers = set(stored_names(model))
    tensors: dict[str, torch.Tensor] = {}
    for name, value in _stored(model).items():
        if name in integers:
            tensors[name] = value
        elif integers and is_large(value):
            tensors[name], tensors[_STEPS + name] = to_int8(value)
        else:
            tensors[name] = value.detach().half()
    if broken := [name for name, value in tensors.items() if not value.isfinite().all()]:
        raise DkicError(f"{path}: not written, since {broken[0].removeprefix(_STEPS)} holds values that float16 can't")
    tensors |= {_TABLES + name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in tables.to_arrays().items()}
    tensors = {name: value.contiguous() for name, value in tensors.items()}
    head = {"format": 3 if integers else 1, "quality": quality, "config": model.config.to_dict(), "about": about}
    write_atomically(path, save(tensors, {"dkic": json.dumps(head, sort_keys=True)}), force=True)


def _tables_of(model: CodecNetwork) -> Tables:
    """Tables of the 64 scales, then one for each channel of z."""
    return gaussian_tables().concat(model.prior.tables()) if isinstance(model, DKIC) else gaussian_tables()


def load_weights(path: str | Path) -> Weights:
    """Reads a weights file. Raises DkicError if it can't be read or is not a weights file."""
    path = Path(path)
    try:
        with torch.device("cpu"), safe_open(path, "pt") as file:  # safetensors reads to torch's default device
            head = json.loads((file.metadata() or {}).get("dkic", "null"))
            if not isinstance(head, dict) or head.get("format") not in FORMATS:
                raise DkicError(f"not dkic weights of format {' or '.join(map(str, FORMATS))}")
            return _weights(path, head, file)
    except DkicError as error:
        raise DkicError(f"{path}: {error}") from None
    # RuntimeError includes RecursionError (JSON nested too deeply); AttributeError is for a dtype that this torch lacks.
    except (OSError, SafetensorError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, MemoryError) as error:
        raise DkicError(f"{path}: not a weights file that can be read ({reason(error)})") from None


def _weights(path: Path, head: dict[str, Any], file: safe_open) -> Weights:
    """Contents of an open file. Memory is allocated only after the tensors are checked against the config."""
    try:
        _check_quality(head["quality"])
        if not isinstance(head["about"], dict):
            raise DkicError("about must be an object")
        config = config_of(head["config"])
        arithmetic = FORMATS[head["format"]]
        with _LayersWithoutMemory():
            model = network_of(config)
            if arithmetic == Arithmetic.EXACT:
                convert_empty(model)
        found = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 (it is not a dict)
        room = _stored(model)
        in_int8 = [name for name in room if _STEPS + name in found] if head["format"] == 3 else []
        room |= _room_in_int8({name: room[name] for name in in_int8})
        if {n: list(t.shape) for n, t in room.items()} != {n: shape for n, shape in found.items() if not n.startswith(_TABLES)}:
            raise DkicError("the tensors' names or shapes do not fit the config")
        tables = Tables.from_arrays({n.removeprefix(_TABLES): file.get_tensor(n).numpy() for n in found.keys() - room.keys()})
        if len(tables) != len(SCALES) + config.hyper_channels:
            raise DkicError(f"it holds {len(tables)} tables")
        # Integers are of their own type already, and anything else in their place is no such file.
        tensors = {name: file.get_tensor(name) for name in room}
        for name, t in tensors.items():
            wanted = room[name].dtype
            if t.dtype != wanted and not (wanted.is_floating_point and t.is_floating_point()):
                raise DkicError(f"{name} is of type {str(t.dtype)[6:]}, not {str(wanted)[6:]}")
            if not t.isfinite().all():
                raise DkicError(f"{name} holds values that are not finite")
            tensors[name] = t.to(wanted, copy=True)
        for name in in_int8:
            step = tensors.pop(_STEPS + name)
            if not (step > 0).all():
                raise DkicError(f"a step of {name} is not above 0")
            tensors[name] = from_int8(tensors[name], step)
        model.load_state_dict(tensors, strict=False, assign=True)
        if arithmetic == Arithmetic.EXACT:
            check_bounds(model)
    except (DkicError, KeyError) as error:
        raise DkicError(f"damaged weights file ({reason(error)})") from None
    return Weights(path, _for_coding(model, arithmetic), tables, file_hash(path), head["quality"], head["about"], arithmetic)


def _stored(model: CodecNetwork) -> dict[str, torch.Tensor]:
    """The part of a model's state that a file stores."""
    return {n: t for n, t in model.state_dict().items() if not n.startswith(_TRAINING_ONLY) and not n.endswith(_SCALE)}


def _room_in_int8(room: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors that a file stores for weights in int8."""
    if wrong := [name for name, t in room.items() if t.ndim != 4 or not t.is_floating_point()]:
        raise DkicError(f"it has steps of {wrong[0]}, which is no weight of the transforms")
    steps = {_STEPS + name: torch.empty(len(t), dtype=torch.float32, device="meta") for name, t in room.items()}
    # By its shape: of a tensor on the meta device empty_like imports torch's compiler, which takes 0.5 s.
    return steps | {name: torch.empty(t.shape, dtype=torch.int8, device="meta") for name, t in room.items()}


class _LayersWithoutMemory(TorchFunctionMode):
    """Makes layers' parameters in float32 on the meta device; the small prior, which no file stores, is created normally.

    Under torch.device("meta") the prior's arithmetic would import torch's compiler, and loading take 3 s longer.
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is torch.empty:
            kwargs = {**kwargs, "dtype": kwargs.get("dtype") or torch.float32, "device": "meta"}
        return function(*args, **kwargs)


def _check_quality(quality: object) -> None:
    if type(quality) is not int or not 1 <= quality <= 255:
        raise DkicError(f"quality must be a whole number from 1 to 255, not {quality!r:.40}")


def _for_coding(model: CodecNetwork, arithmetic: Arithmetic) -> CodecNetwork:
    model = model.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    if isinstance(model, DKIC):
        model.prior.float()  # which was made in torch's default dtype
    if arithmetic == Arithmetic.FLOAT64:
        # Leaves no rounding differences that reach the coded means and scales (quantization.py).
        for network in model.entropy_networks().values():
            network.double()
    return model
