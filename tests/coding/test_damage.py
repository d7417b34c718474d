"""Damaged .dkic files are refused, in one line that names the section, before any network runs or memory is allocated."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from coding.image_files import DISPLAY_P3
from command_line import dkic, dkic_process
from photographs import crop
from PIL import Image

import dkic as package
from dkic.coding import codec as codec_module
from dkic.coding import latent as latent_module
from dkic.coding.container import crc32c, unpack
from dkic.coding.rans import encode
from dkic.errors import FormatError

GOLDEN = Path(__file__).parents[1] / "golden"
SECTIONS = ("header: ", "image section: ", "ICC section: ", "after the ")

# z needs at least 42 bits for each 64 x 64 pixels here, so a file bounds the size of its image. The weights of `tiny` leave z
# unused: their files bound it hardly.
MODEL = GOLDEN / "small-q1.safetensors"


@pytest.fixture(scope="module")
def codec():
    return package.load(MODEL)


@pytest.fixture(scope="module")
def good(codec) -> bytes:
    """64x48, with both sections."""
    image = Image.fromarray(crop(48, 64))
    image.info["icc_profile"] = DISPLAY_P3
    return codec.compress(image)


@pytest.fixture
def refusal(codec, monkeypatch):
    """The message with which a file is refused; checks that no network has run."""

    def decode_latent(file, weights):
        raise AssertionError("a damaged file reached the networks")

    monkeypatch.setattr(codec_module, "decode_latent", decode_latent)

    def refusal(data: bytes) -> str:
        with pytest.raises(FormatError) as caught:
            codec.decompress(data)
        message = str(caught.value)
        assert message.startswith(SECTIONS) and "\n" not in message
        return message

    return refusal


def varint(value: int) -> bytes:
    return bytes([value & 0x7F | 0x80]) + varint(value >> 7) if value > 0x7F else bytes([value])


def claiming(good: bytes, width: int, height: int) -> bytes:
    """The image section of `good` after a header of any size, with valid checksums; `pack` would not write it."""
    file = unpack(good)
    head = b"DKIC" + bytes([1, file.header.arithmetic, 1]) + file.header.model_hash + varint(width) + varint(height)
    key = varint(len(file.image) << 3 | 1)
    section = key + crc32c(file.image, crc32c(key)).to_bytes(4, "little") + file.image
    return head + crc32c(head).to_bytes(4, "little") + section


def test_the_undamaged_file_decodes(codec, good):
    assert codec.decompress(good).size == (64, 48)
    assert codec.decompress(claiming(good, 64, 48)).size == (64, 48)


def test_empty(refusal):
    assert refusal(b"").startswith("header: the file is empty")


@pytest.mark.parametrize("data", [b"PNG", b"\x89PNG\r\n\x1a\n" + bytes(100), b"dkic", b"D", b"DKI", bytes(200), b"hello world\n"])
def test_wrong_magic(refusal, data):
    assert refusal(data).startswith("header: ")


@pytest.mark.parametrize("version", [2, 77, 255])
def test_a_future_version(refusal, good, version):
    message = refusal(good[:4] + bytes([version]) + good[5:])
    assert f"version {version}" in message and "newer dkic" in message


def test_every_truncation(refusal, good):
    for length in range(len(good)):
        refusal(good[:length])


def test_every_change_of_a_single_byte(refusal, good):
    changed = bytearray(good)
    for position, byte in enumerate(good):
        for other in range(256):
            if other != byte:
                changed[position] = other
                refusal(bytes(changed))
        changed[position] = byte


@pytest.mark.parametrize("tail", [b"\0", b"\n", b"DKIC", bytes(1000)])
def test_trailing_bytes(refusal, good, tail):
    refusal(good + tail)
    refusal(good + good)


def test_a_header_of_a_huge_image(refusal, good):
    message = refusal(claiming(good, 10**9, 10**9))
    assert message.startswith("header: ") and "1000000000 x 1000000000" in message


MEASURE = """
import json, resource, sys
import dkic
from dkic.errors import FormatError

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

model, good, *claims = sys.argv[1:]
codec = dkic.load(model)
codec.decompress(open(good, "rb").read())
found = []
for path in claims:
    before = peak()
    try:
        codec.decompress(open(path, "rb").read())
        said = "decoded"
    except FormatError as error:
        said = str(error)
    found.append((said, peak() - before))
print(json.dumps(found))
"""


def test_a_size_too_large_for_the_image_section_is_refused_without_decoding(codec, good, monkeypatch):
    monkeypatch.setattr(latent_module, "Decoder", None)
    with pytest.raises(FormatError, match="image section: .* bytes can't hold 8192 x 8192 pixels, for which this model takes"):
        codec.decompress(claiming(good, 8192, 8192))


def test_the_shortest_stream_is_not_below_the_assumed_minimum(codec):
    """All symbols are the most probable of the narrowest table: no image of this size needs fewer bytes."""
    weights = codec.weights_of(codec.qualities[0])
    frequencies, least = weights.tables.frequencies, weights.tables.least_bits()
    narrowest, latents = least[:64].argmin(), 16 * weights.model.config.latent_channels
    indexes = np.concatenate([np.repeat(np.arange(64, len(least)), 4096), np.full(4096 * latents, narrowest)]).astype(np.uint8)
    symbols = (weights.tables.offset + frequencies.argmax(axis=1))[indexes].astype(np.int32)
    coded = len(encode(symbols, indexes, weights.tables))
    needed = 4096 * (least[64:].sum() + latents * least[narrowest]) / 8
    assert 0.999 * needed < coded < 1.01 * needed + 64


def test_a_large_size_in_the_header_allocates_no_memory(good, tmp_path):
    """In a new process, since peak memory never decreases."""
    claims = {"billion": (10**9, 10**9), "largest": (2**14, 2**14), "widest": (2**28, 1), "highest": (1, 2**28)}
    (tmp_path / "good").write_bytes(good)
    for name, size in claims.items():
        (tmp_path / name).write_bytes(claiming(good, *size))
    command = [sys.executable, "-c", MEASURE, str(MODEL), *(str(tmp_path / name) for name in ("good", *claims))]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == len(claims)
    for name, (said, megabytes) in zip(claims, found, strict=True):
        assert said.startswith("header: " if name == "billion" else "image section: "), said
        assert megabytes < 500, f"{name}: {megabytes:.0f} MB"


# The same through the command


def damaged(good: bytes) -> dict[str, tuple[bytes, str]]:
    """Name -> contents and the section that is named."""
    flipped = bytearray(good)
    flipped[-1] ^= 1
    image = unpack(good).image
    middle = good.index(image) + len(image) // 2
    changed = bytearray(good)
    changed[middle] ^= 0x80
    return {
        "empty": (b"", "header"),
        "text": (b"just some text\n", "header"),
        "magic": (b"DKIX" + good[4:], "header"),
        "version": (good[:4] + b"\x09" + good[5:], "header"),
        "size": (good[:15] + bytes([good[15] ^ 1]) + good[16:], "header"),
        "cut-header": (good[:12], "header"),
        "cut-image": (good[:middle], "image section"),
        "cut-icc": (good[:-3], "ICC section"),
        "changed-image": (bytes(changed), "image section"),
        "changed-icc": (bytes(flipped), "ICC section"),
        "trailing": (good + b"x", "after the ICC section"),
        "billion": (claiming(good, 10**9, 10**9), "header"),
        "other-size": (claiming(good, 640, 480), "image section"),
    }


def check_lines(lines: list[str], cases: dict[str, tuple[bytes, str]], folder) -> None:
    assert len(lines) == len(cases)
    for line, (name, (_, section)) in zip(lines, cases.items(), strict=True):
        assert line.startswith(f"dkic: {folder / name}.dkic: {section}: "), line


def test_the_command_names_file_and_section_and_writes_nothing(good, tmp_path):
    cases = damaged(good)
    for name, (data, _) in cases.items():
        path = tmp_path / f"{name}.dkic"
        path.write_bytes(data)
        result = dkic("decompress", path, "-o", tmp_path / "out.png", "--model", MODEL)
        assert (result.status, result.out) == (1, "")
        check_lines(result.err.splitlines(), {name: cases[name]}, tmp_path)
        path.unlink()
    assert not list(tmp_path.iterdir())


def test_info_names_file_and_section(good, tmp_path):
    cases = damaged(good)
    del cases["other-size"]  # a container without fault
    for name, (data, _) in cases.items():
        path = tmp_path / f"{name}.dkic"
        path.write_bytes(data)
        result = dkic("info", path)
        assert (result.status, result.out) == (1, "")
        check_lines(result.err.splitlines(), {name: cases[name]}, tmp_path)


def test_a_folder_of_damaged_files_in_a_fresh_process(good, tmp_path):
    cases = damaged(good)
    for name, (data, _) in cases.items():
        (tmp_path / f"{name}.dkic").write_bytes(data)
    (tmp_path / "good.dkic").write_bytes(good)
    files = [tmp_path / f"{name}.dkic" for name in (*cases, "good")]
    result = dkic_process("decompress", *files, "-o", tmp_path / "out", "--model", MODEL)
    assert result.status == 1 and "Traceback" not in result.err
    check_lines([line for line in result.err.splitlines() if line.startswith("dkic: ")], cases, tmp_path)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good.png"]
    assert "good.png: 64x48" in result.out
