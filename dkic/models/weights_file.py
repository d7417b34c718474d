"""Weights on disk: one safetensors file a quality level, with the model's config and its frozen integer tables inside.

Tensors are stored as float16 (a tiny model's 2.7 M parameters in 5.4 MB) and computed with as float32, or float64 where bits are
decided: rounding them once, here, is part of the model. The file's hash names the model in every .dkic file, so a published file
is never changed: new weights get a new name.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from dkic.entropy.tables import Tables, gaussian_tables
from dkic.errors import DkicError
from dkic.models.config import ModelConfig
from dkic.models.dkic import DKIC

SHIPPED = Path(__file__).resolve().parents[1] / "weights"
FORMAT = 1
HASH_BYTES = 8
_TABLES = "tables."
# The factorized prior is needed in training alone: its integer tables are in the file.
_TRAINING_ONLY = "prior."


@dataclass(frozen=True)
class Weights:
    """A loaded file.

    model: in eval mode on the CPU; h_s and context in float64, the rest in float32, channels_last. tables: 64 Gaussians, then
    one table for each channel of z. hash: the first 8 bytes of the file's SHA-256. about: training facts, as written.
    """

    path: Path
    model: DKIC
    tables: Tables
    hash: bytes
    quality: int
    about: dict[str, Any]


def file_hash(path: Path) -> bytes:
    """What names a model in a .dkic file."""
    return hashlib.sha256(path.read_bytes()).digest()[:HASH_BYTES]


def save_weights(path: Path, model: DKIC, quality: int, about: dict[str, Any]) -> None:
    """Write a model for use. quality: its level, 1 to 255, rising with the rate; about: JSON facts worth keeping."""
    tables = gaussian_tables().concat(model.prior.tables())
    tensors = {
        name: value.detach().to(torch.float16).contiguous()
        for name, value in model.state_dict().items()
        if not name.startswith(_TRAINING_ONLY)
    }
    if broken := [name for name, value in tensors.items() if not value.isfinite().all()]:
        raise DkicError(f"{path}: not written, since {broken[0]} holds values that float16 can't")
    tensors |= {_TABLES + name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in tables.to_arrays().items()}
    head = {"format": FORMAT, "quality": quality, "config": model.config.to_dict(), "about": about}
    temporary = path.with_name(path.name + ".tmp")
    # Not save_file, whose files nobody but the owner may read.
    temporary.write_bytes(save(tensors, {"dkic": json.dumps(head, sort_keys=True)}))
    temporary.replace(path)


def load_weights(path: Path) -> Weights:
    """Read a weights file. Raises DkicError where it can't be read, or is not one."""
    try:
        with safe_open(path, "pt") as file:
            head = json.loads((file.metadata() or {}).get("dkic", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is not a dict)
    except (OSError, SafetensorError, ValueError) as error:
        raise DkicError(f"{path}: not a safetensors file that can be read ({error})") from None
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        raise DkicError(f"{path}: not dkic weights of format {FORMAT}")
    try:
        config = ModelConfig.from_dict(head["config"])
        arrays = {n.removeprefix(_TABLES): t.numpy() for n, t in tensors.items() if n.startswith(_TABLES)}
        tables = Tables.from_arrays(arrays)
        model = DKIC(config)
        missing = model.load_state_dict({n: t for n, t in tensors.items() if not n.startswith(_TABLES)}, strict=False)
        if missing.unexpected_keys or not all(name.startswith(_TRAINING_ONLY) for name in missing.missing_keys):
            raise DkicError("the tensors' names do not fit the config")
        weights = Weights(path, _for_coding(model), tables, file_hash(path), int(head["quality"]), dict(head["about"]))
    except (DkicError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise DkicError(f"{path}: damaged weights file ({str(error).splitlines()[0]})") from None
    if len(tables) != len(gaussian_tables()) + config.hyper_channels:
        raise DkicError(f"{path}: damaged weights file (it holds {len(tables)} tables)")
    return weights


def _for_coding(model: DKIC) -> DKIC:
    model = model.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    # Between z_hat and the table index float64 leaves no rounding differences that would reach the coded grids (quantization.py).
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
    files = sorted(SHIPPED.glob(f"{model}-q*.safetensors")) if str(model).replace("-", "").isalnum() else []
    if not files:
        shipped = ", ".join(shipped_models()) or "none"
        raise DkicError(f"no model {model}: give the path of a weights file, or one of the shipped names ({shipped})")
    return files


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
