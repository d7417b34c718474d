"""dkic: learned image compression on custom kernels.

`dkic.ops` holds the kernels, `dkic.load` the codec built on them. Importing dkic imports neither torch nor
native code: `load` and `Codec` are fetched at their first use.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dkic.coding.codec import Codec, load

__all__ = ["Codec", "__version__", "load"]

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name in ("Codec", "load"):
        from dkic.coding import codec

        return getattr(codec, name)
    raise AttributeError(f"module 'dkic' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
