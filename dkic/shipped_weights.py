"""Shipped weights files, by name and by hash. Does not import PyTorch, which takes about one second."""

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

from dkic.errors import DkicError

SHIPPED = Path(__file__).resolve().parent / "weights"
HASH_BYTES = 8
DEFAULT_MODEL = "small"
_NAME = re.compile(r"(.+?)(?:-q(\d+))?(?:-r(\d+))?")  # NAME-qQUALITY-rREVISION


def file_hash(path: Path) -> bytes:
    """The hash that identifies a model in .dkic files."""
    return hashlib.sha256(path.read_bytes()).digest()[:HASH_BYTES]


def shipped_models() -> list[str]:
    """Names of the shipped models."""
    return sorted({found[1] for path in SHIPPED.glob("*.safetensors") if (found := _NAME.fullmatch(path.stem))})


def newest_files(model: str) -> list[Path]:
    """The newest shipped weights files of a model, by ascending quality.

    Files are named NAME-qQUALITY-rREVISION.safetensors; NAME-rREVISION.safetensors for a variable-rate model. Without -rREVISION,
    the revision is 1.
    """
    newest: dict[int, tuple[int, Path]] = {}
    for path in SHIPPED.glob("*.safetensors"):
        found = _NAME.fullmatch(path.stem)
        if found and found[1] == model:
            quality, revision = int(found[2] or 0), int(found[3] or 1)
            newest[quality] = max(newest.get(quality, (0, path)), (revision, path))
    return [path for _, (_, path) in sorted(newest.items())]


def find_by_hash(model_hash: bytes, loaded: Iterable[bytes] = ()) -> Path:
    """The shipped weights file that has the model hash in a .dkic file's header.

    Raises:
        DkicError: there is none; the message names the models that are `loaded`.
    """
    for path in sorted(SHIPPED.glob("*.safetensors")):
        if file_hash(path) == model_hash:
            return path
    shipped = ", ".join(shipped_models()) or "none"
    others = ", ".join(one.hex() for one in loaded) or "none"
    raise DkicError(
        f"model {model_hash.hex()}: is needed to decode the file, and is neither shipped ({shipped})"
        f" nor loaded ({others}); load its weights (--model on the command line)"
    )
