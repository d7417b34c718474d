"""Raw HEVC and VVC intra frames by ffmpeg, x265 and libvvenc, from the binary of imageio-ffmpeg.

Times include starting the process. RGB is converted to BT.709 in full range, without dithering, and back.
"""

import io
import subprocess
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image

from dkic.errors import DkicError
from dkic.evaluation.codecs import Unavailable

_EXACT = "flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp+bitexact:sws_dither=none"
_X265 = "keyint=1:info=0:log-level=error:range=full:colormatrix=bt709:frame-threads=1"


@dataclass(frozen=True)
class ByFfmpeg:
    """An `ImageCodec`; quality is the quantization parameter, lower is better."""

    name: str
    about: str
    suffix: str
    qualities: tuple[int, ...]
    executable: str = field(repr=False)
    pixel_format: str = field(repr=False)

    def encode(self, pixels: np.ndarray, quality: int) -> bytes:
        height, width = pixels.shape[:2]
        if self.name == "vvc" and (height % 2 or width % 2):
            raise DkicError(f"vvc: the sides of a 4:2:0 image must be even, not {width}x{height}")
        threads = str(torch.get_num_threads())
        if self.name == "vvc":
            coder = ["-c:v", "libvvenc", "-preset", "medium", "-qpa", "0", "-qp", str(quality), "-threads", threads]
        else:
            parameters = f"{_X265}:qp={quality}:pools={threads}"
            coder = ["-c:v", "libx265", "-preset", "veryslow", "-tune", "psnr", "-x265-params", parameters]
        convert = f"scale=in_range=full:out_range=full:out_color_matrix=bt709:{_EXACT},format={self.pixel_format}"
        source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}"]
        return self._run(source, [*_frame(convert), *coder, "-f", self.suffix[1:]], pixels.tobytes())

    def decode(self, data: bytes) -> np.ndarray:
        convert = f"scale=in_range=full:in_color_matrix=bt709:out_range=full:{_EXACT},format=rgb24"
        threads = ["-threads", str(torch.get_num_threads())]
        result = self._run([*threads, "-f", self.suffix[1:]], [*_frame(convert), "-c:v", "ppm", "-f", "image2pipe"], data)
        return np.array(Image.open(io.BytesIO(result), formats=["PPM"]))

    def _run(self, source: list[str], target: list[str], data: bytes) -> bytes:
        command = [self.executable, "-hide_banner", "-loglevel", "error", *source, "-i", "-", *target, "-"]
        done = subprocess.run(command, input=data, capture_output=True)
        if done.returncode or not done.stdout:
            said = done.stderr.decode(errors="replace").strip().splitlines() or ["no output"]
            raise DkicError(f"{self.name}: ffmpeg failed: {said[-1]}")
        return done.stdout


def _frame(convert: str) -> list[str]:
    return ["-frames:v", "1", "-vf", convert]


def by_ffmpeg(name: str) -> ByFfmpeg:
    """The codec of that name: hevc444 or vvc. Raises Unavailable."""
    try:
        import imageio_ffmpeg

        executable, version = imageio_ffmpeg.get_ffmpeg_exe(), imageio_ffmpeg.get_ffmpeg_version()
    except (ImportError, RuntimeError):  # no package, or no binary in it
        raise Unavailable("needs the ffmpeg of imageio-ffmpeg; pip install imageio-ffmpeg") from None
    coder = "libvvenc" if name == "vvc" else "libx265"
    known = subprocess.run([executable, "-hide_banner", "-encoders"], capture_output=True, text=True).stdout
    if coder not in known:
        raise Unavailable(f"imageio-ffmpeg's ffmpeg {version} is built without {coder}")
    version = version.split("-2")[0]  # without the build's date
    if name == "vvc":
        about = f"VVC intra: libvvenc in ffmpeg {version}, medium, 4:2:0, 10 bits, fixed QP, raw stream"
        return ByFfmpeg("vvc", about, ".vvc", (53, 50, 47, 44, 41, 38, 35, 32), executable, "yuv420p10le")
    about = f"HEVC intra: x265 in ffmpeg {version}, veryslow, tune psnr, 4:4:4, 8 bits, fixed QP, raw stream"
    return ByFfmpeg("hevc444", about, ".hevc", (51, 49, 47, 45, 43, 41, 39, 37, 35, 33, 31), executable, "yuv444p")
