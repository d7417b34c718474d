"""BPG in 4:4:4 (Bellard 2014), the paper's classical peer, by bpgenc and bpgdec, which must be built from source."""

import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from dkic.errors import DkicError
from dkic.evaluation.codecs import Unavailable


class Bpg:
    """An `ImageCodec`; quality is the quantization parameter, lower is better. Times include the process and its PNG file."""

    name = "bpg444"
    about = "BPG: bpgenc -m 9, 4:4:4, 8 bits"
    suffix = ".bpg"
    qualities = (51, 49, 47, 45, 43, 41, 39, 37, 35, 33, 31)

    def __init__(self) -> None:
        for program in ("bpgenc", "bpgdec"):
            if shutil.which(program) is None:
                raise Unavailable(f"{program}: not found on PATH; build libbpg from https://bellard.org/bpg/")

    def encode(self, pixels: np.ndarray, quality: int) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder, "in.png"), Path(folder, "out.bpg")
            Image.fromarray(pixels).save(source, compress_level=1)
            _run("bpgenc", "-m", "9", "-f", "444", "-b", "8", "-q", str(quality), "-o", str(target), str(source))
            return target.read_bytes()

    def decode(self, data: bytes) -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder, "in.bpg"), Path(folder, "out.ppm")
            source.write_bytes(data)
            _run("bpgdec", "-o", str(target), str(source))
            return np.array(Image.open(target).convert("RGB"))


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise DkicError(f"bpg444: {command[0]} failed: {said}")
