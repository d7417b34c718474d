"""The container and the whole decoder of symbols under damaged files whose checksums are right.

Bytes, header, sections and latents of the files in tests/golden are changed at random and packed again. Every file must be
decoded, or refused in one line, in at most 2 s of CPU time per KB. Memory is bounded by the image size in the header, which is
checked against the length of the file. Files are reproducible from a seed and a number.
"""

import random
import struct
import time
import zlib
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from dkic.coding.container import MAX_ICC_BYTES, DkicFile, Header, crc32c, pack, unpack
from dkic.coding.latent import decode_latent, encode_latent
from dkic.errors import DkicError, FormatError
from dkic.models.weights_file import Weights, load_weights

GOLDEN = Path(__file__).parents[1] / "golden"
SECONDS_PER_KB = 2
# Memory that decoding may use in addition to the process': a part that does not depend on the image (an ICC profile
# inflates to 4 MiB), and the latents of the small model.
FIXED_BYTES, BYTES_PER_PIXEL = 48 * 2**20, 32

SIZES = (1, 2, 63, 64, 65, 127, 128, 129, 255, 4096, 2**14, 2**14 + 1, 2**28, 2**31, 2**32 - 1, 2**35 - 1)
SYMBOLS = (0, 1, -1, 127, -128, 255, 2**15, -(2**15), 2**24 + 1, 2**31 - 128, -(2**31) + 128)


class Finding(Exception):
    """A violation of the rules for decoders."""


def varint(value: int) -> bytes:
    return bytes([value & 0x7F | 0x80]) + varint(value >> 7) if value > 0x7F else bytes([value])


def section(kind: int, payload: bytes, length: int | None = None) -> bytes:
    key = varint((len(payload) if length is None else length) << 3 | kind)
    return key + crc32c(payload, crc32c(key)).to_bytes(4, "little") + payload


def changed(data: bytes, draw: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 4, 16))):
        at = draw.randrange(len(out) + 1)
        kind = draw.randrange(6)
        if kind == 0:
            del out[at:]
        elif kind == 1:
            out[at:at] = draw.randbytes(draw.randint(1, 9))
        elif kind == 2:
            del out[at : at + draw.randint(1, 9)]
        elif kind == 3:
            out[at : at + 4] = draw.choice((b"\0" * 4, b"\xff" * 4, b"\x80\0\0\0", draw.randbytes(4)))
        elif at < len(out):
            out[at] = out[at] ^ 1 << draw.randrange(8) if kind == 4 else draw.randrange(256)
    return bytes(out)


@dataclass
class DecoderTarget:
    """Creates damaged files from the golden files, and checks the decoder on each."""

    seed: int = 0
    weights_of: dict[bytes, Weights] = field(default_factory=dict)
    outcomes: Counter = field(default_factory=Counter)
    slowest: float = 0.0  # seconds for each KB begun
    largest: int = 0  # bytes

    def __post_init__(self) -> None:
        for path in sorted(GOLDEN.glob("*.safetensors")):
            weights = load_weights(path)
            self.weights_of[weights.hash] = weights
        stored = np.load(GOLDEN / "latents.npz")
        self.files: list[DkicFile] = []
        self.latents: dict[Header, list[torch.Tensor]] = {}  # y, and z_hat if the model has one
        for path in sorted(GOLDEN.glob("*.dkic")):
            file = unpack(path.read_bytes())
            names = [name for name in (f"{path.stem}.y", f"{path.stem}.z_hat") if name in stored]
            y, *z_hat = (torch.from_numpy(stored[name]).double().contiguous() for name in names)
            self.files.append(file)
            self.latents[file.header] = [y / 64, *z_hat]

    def make(self, number: int) -> bytes:
        """The file of this number."""
        draw = random.Random(f"{self.seed} {number}")
        file = draw.choice(self.files)
        if draw.random() < 0.3:
            file = replace(file, icc=draw.randbytes(draw.choice((0, 1, 200, 5000))))
        kinds = (self._bytes, self._image, self._stream, self._header, self._sections, self._icc, self._latent)
        return draw.choice(kinds)(file, draw)

    def _bytes(self, file: DkicFile, draw: random.Random) -> bytes:
        return changed(pack(file), draw)

    def _image(self, file: DkicFile, draw: random.Random) -> bytes:
        return pack(replace(file, image=changed(file.image, draw)))

    def _stream(self, file: DkicFile, draw: random.Random) -> bytes:
        """Another stream altogether, whose coder states are in range."""
        lanes = draw.randrange(4)
        states = (struct.pack("<Q", draw.randrange(2**31, 2**63)) for _ in range((1 << lanes) - 1))
        words = draw.choice((draw.randbytes, bytes))(4 * draw.choice((0, 1, 50, 800)))
        image = draw.randbytes(4) + bytes([lanes]) + draw.randbytes(4) + b"\1" + b"".join(states) + words
        return pack(replace(file, image=image))

    def _header(self, file: DkicFile, draw: random.Random) -> bytes:
        """A changed header, which `pack` might not write, with a valid CRC."""
        width, height = (draw.choice((*SIZES, draw.randint(1, 3000))) for _ in range(2))
        if draw.random() < 0.5:
            width, height = file.header.width, draw.choice((height, file.header.height * 2))
        mode = file.header.arithmetic if draw.random() < 0.7 else draw.randrange(256)
        known = draw.choice((file.header.model_hash, *self.weights_of))
        head = b"DKIC" + bytes([1, mode, draw.randrange(256)]) + known + varint(width) + varint(height)
        head += draw.randbytes(1) if mode & 0x40 else b""
        return head + crc32c(head).to_bytes(4, "little") + section(1, file.image)

    def _sections(self, file: DkicFile, draw: random.Random) -> bytes:
        """A valid header and any sections in any order, with valid CRCs; some state another length."""
        head = pack(replace(file, image=b""))[: -len(section(1, b""))] if file.icc is None else self._announcing(file)
        icc = zlib.compress(file.icc or b"")
        parts = [section(1, file.image)] if draw.random() < 0.7 else []
        for _ in range(draw.randrange(4)):
            payload = draw.choice((b"", icc, file.image, draw.randbytes(20)))
            parts.append(section(draw.choice((1, 2, 2, draw.randrange(8))), payload, draw.choice((None, None, *SIZES[:-4]))))
        return head + b"".join(parts) + draw.choice((b"", b"", draw.randbytes(3)))

    def _announcing(self, file: DkicFile) -> bytes:
        whole = pack(file)
        return whole[: whole.index(section(1, file.image))]

    def _icc(self, file: DkicFile, draw: random.Random) -> bytes:
        profile = file.icc or draw.choice((bytes(MAX_ICC_BYTES), bytes(MAX_ICC_BYTES + 1), bytes(3000)))
        stream = draw.choice((changed(zlib.compress(profile), draw), zlib.compress(profile), draw.randbytes(30)))
        return self._announcing(replace(file, icc=b"")) + section(1, file.image) + section(2, stream)

    def _latent(self, file: DkicFile, draw: random.Random) -> bytes:
        """A valid file of latents that no image has, which must be decoded."""
        latents = [t.clone() for t in self.latents[file.header]]
        for t in latents:
            for _ in range(draw.choice((0, 1, 8, 100))):
                t.view(-1)[draw.randrange(t.numel())] = draw.choice(SYMBOLS)
        weights = self.weights_of[file.header.model_hash]
        with torch.inference_mode():
            y, z_hat = latents if len(latents) == 2 else (*latents, None)
            fine = y.abs().amax() < 2**29  # or symbols would be beyond int32
            quality, qstep = file.header.quality, draw.choice((0, 0, draw.randint(-8 if fine else 0, 8)))
            if z_hat is None:
                quality, qstep = (draw.randint(2, 99), draw.randint(-8, 7)) if fine else (1, 0)
            header = replace(file.header, quality=quality, qstep=qstep)
            data = pack(replace(file, header=header, image=encode_latent(y, z_hat, weights, quality, qstep)))
            away, (_, (size, _)) = (decode_latent(unpack(data), weights) - y).abs(), weights.quantization(quality, qstep)
            if not (away <= size / 2 + y.abs() * 2.0**-23).all():  # rounded, and carried by float32
                raise Finding("the latents that were coded are not those that are decoded")
        return data

    def run(self, data: bytes) -> str:
        """Decodes a file and returns the outcome. Raises Finding; MemoryError and other errors are not caught."""
        before, start = memory(reset=True), time.process_time()
        outcome, header = self._decode(data)
        seconds = (time.process_time() - start) / (1 + len(data) // 1024)
        taken = memory() - before
        self.outcomes[outcome] += 1
        self.slowest, self.largest = max(self.slowest, seconds), max(self.largest, taken)
        if seconds > SECONDS_PER_KB:
            raise Finding(f"{seconds:.1f} s a KB ({outcome})")
        allowed = FIXED_BYTES + (BYTES_PER_PIXEL * header.width * header.height if header else 0)
        if taken > allowed:
            raise Finding(f"{taken} bytes of memory, where {allowed} are allowed ({outcome})")
        return outcome

    def _decode(self, data: bytes) -> tuple[str, Header | None]:
        """The outcome, and the header if the file passed the check of its size."""
        try:
            file = unpack(data)
            salvaged = unpack(data, salvage=True)
            if salvaged != file or salvaged.lost:
                raise Finding("salvaging changes a sound file")
            if file.icc is None and pack(file) != data:
                raise Finding("two files have one content")
        except FormatError as error:
            _one_line(error)
            try:
                file = unpack(data, salvage=True)
            except FormatError as error:
                _one_line(error)
                return "refused by the container", None
            if not file.lost or not file.lost[0].startswith(str(error)):
                raise Finding("what was salvaged is not told") from None
        weights = self.weights_of.get(file.header.model_hash)
        if weights is None:
            return "of another model", None
        try:
            with torch.inference_mode():
                decode_latent(file, weights)
        except FormatError as error:
            _one_line(error)
            if "can't hold" in str(error) or str(error).startswith("header"):
                return "refused for its size or arithmetic", None
            return "refused by the decoder", file.header
        return ("salvaged" if file.lost else "decoded"), file.header


def _one_line(error: DkicError) -> None:
    if "\n" in str(error) or len(str(error)) > 400:
        raise Finding(f"the message is not one sentence: {error}") from error


def memory(reset: bool = False) -> int:
    """The most bytes that the process has held since the last reset; 0 where the system does not tell (Linux does)."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    return 1024 * int(status.split("VmHWM:")[1].split()[0])
