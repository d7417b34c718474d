"""Weights files: safetensors with config and integer tables, one for each quality, or one for a variable-rate model.

The entropy networks h_s and context are stored as integers (dkic.quantized), large weights of the transforms g_a, g_s and h_a as
int8 with a scale for each output channel (dkic.models.int8_weights), all else as float16. The 5.5 M parameters of
`small` take 5.8 MB. Transforms compute in float32; the rounding for storage is part of the model.

    format 1    float networks, as training writes them: all tensors float16; h_s and context compute in float64
    format 2    h_s and context integers; the transforms float16
    format 3    as 2, with large weights of the transforms int8. `scales.NAME`, float16 `[out]`, holds the scales of weight NAME

All formats are read; 1 and 3 are written. Every .dkic file names its model by the hash of the weights file, so a published file
is never changed: new weights get a new name.
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
from dkic.quantized import converted_state, load, stored_names
from dkic.shipped_weights import file_hash

FORMATS = {1: Arithmetic.FLOAT64, 2: Arithmetic.EXACT, 3: Arithmetic.EXACT}
_TABLES = "tables."
_SCALES = "scales."  # prefix of the scales of int8 weights
_OLD_SCALES = "steps."  # that prefix in published files, whose bytes can't change
# The factorized prior is needed only in training: the file contains its integer tables.
_TRAINING_ONLY = "prior."
_ACTIVATION_SCALE = ".scale"  # suffix of the activation scales, which a float network does not use


@dataclass(frozen=True)
class Weights:
    """A loaded weights file.

    path: of the file.
    model: in eval mode, float32, channels_last, on the CPU; its entropy networks compute as `arithmetic` states.
    tables: of 64 Gaussians, then one for each channel of z.
    hash: the first 8 bytes of the file's SHA-256.
    quality: as written; of a variable-rate model it is not used.
    about: facts on the training, as written.
    arithmetic: of the entropy networks.
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

        Raises DkicError if the input is not from 1 to 100, or qstep is 8, which equals the next lower quality with qstep -8.
        """
        if not self.model.variable_rate:
            return None
        at = quality - qstep / PARTS
        if not 1 <= at <= MAX_QUALITY:
            raise DkicError(f"quality {quality} with qstep {qstep:+}: must be from 1 to {MAX_QUALITY} together")
        if qstep >= PARTS // 2:
            raise DkicError(
                f"qstep {qstep:+}: must be -8 to 7 for a variable-rate model; use quality {quality - 1} with qstep -8"
            )
        return torch.tensor([at], dtype=torch.float64, device=self.device)

    def quantization(self, quality: int, qstep: int) -> tuple[Tensor | None, Quantizer]:
        """`quality_at`, and the quantizer of the latent at the operating point."""
        at = self.quality_at(quality, qstep)
        return at, Quantizer(qstep_size(qstep), qstep) if at is None else self.model.quantizer(at)


def save_weights(path: Path, model: CodecNetwork, quality: int, about: dict[str, Any], tables: Tables | None = None) -> None:
    """Writes a weights file.

    Args:
        path: of the file; an existing file is replaced.
        model: a quantized network (`dkic.quantized.convert`), whose large weights of the transforms are stored in 8 bits; or a
            float network, stored in float16.
        quality: 1 to 255; a higher quality has a higher rate.
        about: facts in JSON types.
        tables: of the Gaussians and of z; None: computed from model.prior.

    Raises:
        DkicError: quality is out of range, a weight is not finite in float16, or the file can't be written.
    """
    _check_quality(quality)
    tables = tables or _tables_of(model)
    integers = set(stored_names(model))
    tensors: dict[str, torch.Tensor] = {}
    for name, value in _stored(model.state_dict()).items():
        if name in integers:
            tensors[name] = value
        elif integers and is_large(value):
            tensors[name], tensors[_SCALES + name] = to_int8(value)
        else:
            tensors[name] = value.detach().half()
    if broken := [name for name, value in tensors.items() if not value.isfinite().all()]:
        name = broken[0].removeprefix(_SCALES)
        raise DkicError(f"{path}: {name} holds values beyond float16; the file is not written")
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
                raise DkicError(f"format: must be dkic weights of format {' or '.join(map(str, FORMATS))}")
            return _weights(path, head, file)
    except DkicError as error:
        raise DkicError(f"{path}: {error}") from None
    # RuntimeError includes RecursionError (JSON nested too deeply); AttributeError is for a dtype that this torch lacks.
    except (OSError, SafetensorError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, MemoryError) as error:
        raise DkicError(f"{path}: not a weights file that can be read ({reason(error)})") from None


def _weights(path: Path, head: dict[str, Any], file: safe_open) -> Weights:
    """The weights in an open file. Memory is allocated only after the tensors are checked against the config."""
    try:
        _check_quality(head["quality"])
        if not isinstance(head["about"], dict):
            raise DkicError("about: must be an object")
        config = config_of(head["config"])
        arithmetic = FORMATS[head["format"]]
        with _LayersWithoutMemory():
            model = network_of(config)
        in_file = {_SCALES + n.removeprefix(_OLD_SCALES) if n.startswith(_OLD_SCALES) else n: n for n in file.keys()}  # noqa: SIM118
        found = {name: file.get_slice(given).get_shape() for name, given in in_file.items()}
        exact = arithmetic == Arithmetic.EXACT
        expected = _stored(converted_state(model) if exact else model.state_dict())
        in_int8 = [name for name in expected if _SCALES + name in found] if head["format"] == 3 else []
        expected |= _stored_in_int8({name: expected[name] for name in in_int8})
        shapes = {name: shape for name, shape in found.items() if not name.startswith(_TABLES)}
        if len(in_file) < len(file.keys()) or {name: list(t.shape) for name, t in expected.items()} != shapes:
            raise DkicError("tensors: must have the names and shapes of the config")
        arrays = {name.removeprefix(_TABLES): file.get_tensor(in_file[name]).numpy() for name in found.keys() - expected.keys()}
        tables = Tables.from_arrays(arrays)
        if len(tables) != len(SCALES) + config.hyper_channels:
            raise DkicError(f"tables: must be {len(SCALES) + config.hyper_channels} for the config, not {len(tables)}")
        # Integers must have their dtype; floating-point tensors are converted from any.
        tensors = {name: file.get_tensor(in_file[name]) for name in expected}
        for name, t in tensors.items():
            wanted = expected[name].dtype
            if t.dtype != wanted and not (wanted.is_floating_point and t.is_floating_point()):
                raise DkicError(f"{name}: must be of type {str(wanted)[6:]}, not {str(t.dtype)[6:]}")
            if not t.isfinite().all():
                raise DkicError(f"{name}: must be finite")
            tensors[name] = t.to(wanted, copy=True)
        for name in in_int8:
            scale = tensors.pop(_SCALES + name)
            if not (scale > 0).all():
                raise DkicError(f"{name}: its scales must be above 0")
            tensors[name] = from_int8(tensors[name], scale)
        if exact:
            load(model, tensors, strict=False, assign=True)
        else:
            model.load_state_dict(tensors, strict=False, assign=True)
    except (DkicError, KeyError) as error:
        raise DkicError(f"weights: damaged ({reason(error)}); get the file again") from None
    return Weights(path, _for_coding(model, arithmetic), tables, file_hash(path), head["quality"], head["about"], arithmetic)


def _stored(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The part of a model's state dict that a file stores."""
    return {n: t for n, t in state.items() if not n.startswith(_TRAINING_ONLY) and not n.endswith(_ACTIVATION_SCALE)}


def _stored_in_int8(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors that a file stores for weights in int8: integers and scales, on the meta device."""
    if wrong := [name for name, t in weights.items() if t.ndim != 4 or not t.is_floating_point()]:
        raise DkicError(f"{wrong[0]}: must be a weight of the transforms, as it has scales")
    scales = {_SCALES + name: torch.empty(len(t), dtype=torch.float32, device="meta") for name, t in weights.items()}
    # Not empty_like: for a tensor on the meta device it imports torch's compiler, which takes 0.5 s.
    return scales | {name: torch.empty(t.shape, dtype=torch.int8, device="meta") for name, t in weights.items()}


class _LayersWithoutMemory(TorchFunctionMode):
    """Creates layers' parameters in float32 on the meta device; the small prior, which no file stores, is created normally.

    Under torch.device("meta"), the arithmetic that initializes the prior would import torch's compiler, which takes 3 s.
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is torch.empty:
            kwargs = {**kwargs, "dtype": kwargs.get("dtype") or torch.float32, "device": "meta"}
        return function(*args, **kwargs)


def _check_quality(quality: object) -> None:
    if type(quality) is not int or not 1 <= quality <= 255:
        raise DkicError(f"quality: is {quality!r:.40}; give an integer from 1 to 255")


def _for_coding(model: CodecNetwork, arithmetic: Arithmetic) -> CodecNetwork:
    model = model.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    if isinstance(model, DKIC):
        model.prior.float()  # it was created in torch's default dtype
    if arithmetic == Arithmetic.FLOAT64:
        # In float64, rounding differences do not reach the coded means and scales (quantization.py).
        for network in model.entropy_networks().values():
            network.double()
    return model
