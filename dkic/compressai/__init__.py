"""Runs CompressAI models on dkic's kernels, in place and reversibly.

    from dkic.compressai import accelerate

    model = accelerate(bmshj2018_hyperprior(quality=4, pretrained=True).eval())
    out = model.compress(x)  # the streams are interchangeable with CompressAI's

Needs CompressAI 1.2.8 or later (extra `[compressai]`).
"""

from dkic.errors import install

try:
    import compressai as _compressai  # noqa: F401
except ImportError as error:
    raise ImportError(f"dkic.compressai: CompressAI is not installed; {install('compressai')}") from error

from dkic.compressai.ans import BufferedRansEncoder, RansDecoder, RansEncoder
from dkic.compressai.bit_exact import BitExactReport, load_bit_exact, make_bit_exact
from dkic.compressai.replacement import accelerate, accelerated, restore

__all__ = [
    "BitExactReport",
    "BufferedRansEncoder",
    "RansDecoder",
    "RansEncoder",
    "accelerate",
    "accelerated",
    "load_bit_exact",
    "make_bit_exact",
    "restore",
]
