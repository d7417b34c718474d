"""Weights on disk: one safetensors file a quality level, with the model's config and its frozen integer tables inside.

Tensors are stored as float16 (a tiny model's 2.7 M parameters in 5 MB) and computed with as float32: rounding them once, here, is
part of the model. What decides bits, h_s and the context, is stored as the integers of dkic.entropy.exact_network (format 2), or
in older files (format 1) as float16 too and computed with in float64. The file's hash names the model in every .dkic file, so a
published file is never changed: new weights get a new name.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch.overrides import TorchFunctionMode

from dkic.entropy.exact_network import check, frozen_names, make_room
from dkic.entropy.quantization import Arithmetic
from dkic.entropy.tables import Tables, gaussian_tables
from dkic.errors import DkicError
from dkic.models.config import ModelConfig
from dkic.models.dkic import DKIC
from dkic.output_file import reason, write_atomically

SHIPPED = Path(__file__).resolve().parents[1] / "weights"
FORMATS = {1: Arithmetic.FLOAT64, 2: Arithmetic.EXACT}
HASH_BYTES = 8
_TABLES = "tables."
# The factorized prior is needed in training alone: its integer tables are in the file.
_TRAINING_ONLY = "prior."
_ENTROPY_PARTS = ("h_s", "context")
_GRID = ".size"  # a float network's grids are of no use


@dataclass(frozen=True)
class Weights:
    """A loaded file.

    model: in eval mode on the CPU, in float32, channels_last; h_s and context as `arithmetic` says. tables: 64 Gaussians, then
    one table for each channel of z. hash: the first 8 bytes of the file's SHA-256. about: training facts, as written.
    """

    path: Path
    model: DKIC
    tables: Tables
    hash: bytes
    quality: int
    about: dict[str, Any]
    arithmetic: Arithmetic

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return next(self.model.g_a.parameters()).device


def file_hash(path: Path) -> bytes:
    """What names a model in a .dkic file."""
    return hashlib.sha256(path.read_bytes()).digest()[:HASH_BYTES]


def save_weights(path: Path, model: DKIC, quality: int, about: dict[str, Any], tables: Tables | None = None) -> None:
    """Write a model for use.

    Args:
        model: its h_s and context frozen (`dkic.entropy.exact_network.freeze`) or float.
        quality: its level, 1 to 255, rising with the rate.
        about: JSON facts worth keeping.
        tables: those of z and y; by default made from model.prior.
    """
    _check_quality(quality)
    tables = tables or gaussian_tables().concat(model.prior.tables())
    integers = {f"{part}.{name}" for part in _ENTROPY_PARTS for name in frozen_names(getattr(model, part))}
    tensors = {
        name: value.detach().to(value.dtype if name in integers else torch.float16).contiguous()
        for name, value in _stored(model).items()
    }
    if broken := [name for name, value in tensors.items() if not value.isfinite().all()]:
        raise DkicError(f"{path}: not written, since {broken[0]} holds values that float16 can't")
    tensors |= {_TABLES + name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in tables.to_arrays().items()}
    head = {"format": 2 if integers else 1, "quality": quality, "config": model.config.to_dict(), "about": about}
    write_atomically(path, save(tensors, {"dkic": json.dumps(head, sort_keys=True)}), force=True)


def load_weights(path: str | Path) -> Weights:
    """Read a weights file. Raises DkicError where it can't be read, or is not one."""
    path = Path(path)
    try:
        with safe_open(path, "pt") as file:
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
    """What an open file holds. Nothing is allocated before its tensors are known to be those of its config."""
    try:
        _check_quality(head["quality"])
        if not isinstance(head["about"], dict):
            raise DkicError("about must be an object")
        config = ModelConfig.from_dict(head["config"])
        arithmetic = FORMATS[head["format"]]
        with _LayersWithoutMemory():
            model = DKIC(config)
            if arithmetic == Arithmetic.EXACT:
                make_room(model)
        room = _stored(model)
        found = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 (it is not a dict)
        if {n: list(t.shape) for n, t in room.items()} != {n: shape for n, shape in found.items() if not n.startswith(_TABLES)}:
            raise DkicError("the tensors' names or shapes do not fit the config")
        tables = Tables.from_arrays({n.removeprefix(_TABLES): file.get_tensor(n).numpy() for n in found.keys() - room.keys()})
        if len(tables) != len(gaussian_tables()) + config.hyper_channels:
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
        model.load_state_dict(tensors, strict=False, assign=True)
        if arithmetic == Arithmetic.EXACT:
            check(model)
    except (DkicError, KeyError) as error:
        raise DkicError(f"damaged weights file ({reason(error)})") from None
    return Weights(path, _for_coding(model, arithmetic), tables, file_hash(path), head["quality"], head["about"], arithmetic)


def _stored(model: DKIC) -> dict[str, torch.Tensor]:
    """What a file holds of a model's state."""
    return {n: t for n, t in model.state_dict().items() if not n.startswith(_TRAINING_ONLY) and not n.endswith(_GRID)}


class _LayersWithoutMemory(TorchFunctionMode):
    """Makes layers' parameters on the meta device; the small prior, which no file holds, is made as ever.

    Under torch.device("meta") the prior's arithmetic would import torch's compiler, and loading take 3 s longer.
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        return function(*args, **kwargs | {"device": "meta"} if function is torch.empty else kwargs)


def _check_quality(quality: object) -> None:
    if type(quality) is not int or not 1 <= quality <= 255:
        raise DkicError(f"quality must be a whole number from 1 to 255, not {quality!r:.40}")


def _for_coding(model: DKIC, arithmetic: Arithmetic) -> DKIC:
    model = model.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    if arithmetic == Arithmetic.FLOAT64:
        # It leaves no rounding differences that would reach the coded grids (quantization.py).
        model.h_s.double()
        model.context.double()
    return model


def find_weights(model: str | Path) -> list[Path]:
    """Files of a model: a name of shipped weights such as "tiny", a file, or a folder of files."""
    path = Path(model)
    if path.is_file():
        return [path]
    if files := sorted(path.glob("*.safetensors")):
        return files
    files = _newest(str(model))
    if not files:
        shipped = ", ".join(shipped_models()) or "none"
        raise DkicError(f"no model {model}: give the path of a weights file, or one of the shipped names ({shipped})")
    return files


def _newest(model: str) -> list[Path]:
    """Shipped files of a name: NAME-qQUALITY.safetensors, or NAME-qQUALITY.REVISION.safetensors where there are later ones."""
    newest: dict[int, tuple[int, Path]] = {}
    for path in SHIPPED.glob("*-q*.safetensors"):
        found = re.fullmatch(r"(.+)-q(\d+)(?:\.(\d+))?", path.stem)
        if found and found[1] == model:
            quality, revision = int(found[2]), int(found[3] or 1)
            newest[quality] = max(newest.get(quality, (0, path)), (revision, path))
    return [path for _, (_, path) in sorted(newest.items())]


def find_by_hash(model_hash: bytes) -> Path:
    """The shipped file that a .dkic file's header names."""
    for path in sorted(SHIPPED.glob("*.safetensors")):
        if file_hash(path) == model_hash:
            return path
    shipped = ", ".join(shipped_models()) or "none"
    raise DkicError(
        f"it was made with model {model_hash.hex()}, which is none of the shipped ones ({shipped}); give its weights with --model"
    )


def shipped_models() -> list[str]:
    """Names of the models that come with the package."""
    return sorted({path.stem.rpartition("-q")[0] for path in SHIPPED.glob("*-q*.safetensors")})
