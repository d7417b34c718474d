"""benchmarks/photo_sets.py and unpack_rcc.py: sets from a small SOURCE, errors, and the shipped list."""

import csv
import struct
import zlib

import numpy as np
import pytest
from click.testing import CliRunner
from photographs import crop
from PIL import Image

from benchmarks import photo_sets, unpack_rcc
from dkic.demo import PHOTO

RESERVED = ("python3-skimage", "scikit-image", "python3-sklearn", "scikit-learn", "libjxl-testdata")


def write(source, rows):
    """An image and a row of the listing for each (set, name, pixels, suffix)."""
    listing = source / "listing.csv"
    with open(listing, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(photo_sets.Photograph._fields)
        for number, (kind, name, pixels, suffix) in enumerate(rows):
            (source / "@scope/package").mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(source / f"@scope/package/{number}{suffix}", quality=95)
            writer.writerow((kind, name, "npm", "@scope/package", "1.0", f"{number}{suffix}", "MIT"))
    return listing


def make(tmp_path, rows):
    listing = write(tmp_path, rows)
    return CliRunner().invoke(photo_sets.main, [str(tmp_path), str(tmp_path / "out"), "--listing", str(listing)])


def whole():
    return np.asarray(Image.open(PHOTO).convert("RGB"))


ROWS = [
    ("test", "report", np.tile(whole(), (2, 2, 1)), ".png"),
    ("train", "kept", crop(200, 180, top=10, left=10), ".png"),
    ("train", "halved", crop(330, 342, top=150, left=420), ".jpg"),
]


def test_sets(tmp_path):
    """Held out: 768x512. For training: PNG as it is, JPEG halved."""
    result = make(tmp_path, ROWS)
    assert result.exit_code == 0, result.output
    sizes = {p.relative_to(tmp_path / "out").as_posix(): Image.open(p).size for p in (tmp_path / "out").glob("*/*.png")}
    assert sizes == {"test/report.png": (768, 512), "train/kept.png": (180, 200), "train/halved.png": (171, 165)}
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out/train/kept.png")), ROWS[1][2])
    with open(tmp_path / "out/sets.csv", newline="") as file:
        written = list(csv.DictReader(file))
    assert [(r["name"], r["source_width"], r["width"], r["license"]) for r in written] == [
        ("report", "1536", "768", "MIT"),
        ("kept", "180", "180", "MIT"),
        ("halved", "342", "171", "MIT"),
    ]


def test_large_strongly_compressed_jpegs_are_quartered(tmp_path):
    path = tmp_path / "flat.jpg"
    image = Image.fromarray(np.tile(whole(), (3, 2, 1)))
    image.save(path, quality=5)
    assert path.stat().st_size * 8 < 0.5 * image.width * image.height
    assert photo_sets.for_training(image, path).size == (384, 384)


@pytest.mark.parametrize(
    "row, message",
    [
        (("train", "Kept", ROWS[2][2], ".jpg"), "Kept: listed twice"),  # one file where names ignore case
        (("trian", "typo", ROWS[2][2], ".jpg"), "no set 'trian'"),
        (("train", "small", crop(310, 342), ".jpg"), "only 171x155 pixels"),
        (("validation", "small", crop(500, 468, top=0), ".png"), "smaller than 768x512"),
        (("train", "mirrored", whole()[:, ::-1], ".png"), "mirrored resembles report"),
        (("train", "again", ROWS[1][2][:, ::-1], ".png"), "again resembles kept"),
        (("train", "clear", np.zeros((200, 200, 4), np.uint8), ".png"), "transparent"),
    ],
)
def test_refused(tmp_path, row, message):
    rows = [("test", "report", whole(), ".png"), *ROWS[1:], row]
    result = make(tmp_path, rows)
    assert result.exit_code == 1 and message in result.output, result.output
    assert not (tmp_path / "out/sets.csv").exists()


def test_a_missing_file_is_named(tmp_path):
    listing = write(tmp_path, ROWS)
    (tmp_path / "@scope/package/1.png").unlink()
    result = CliRunner().invoke(photo_sets.main, [str(tmp_path), str(tmp_path / "out"), "--listing", str(listing)])
    assert result.exit_code == 1 and "1.png" in result.output


def test_the_list_that_ships():
    photographs = photo_sets.listed(photo_sets.LISTING)
    held = {p.name for p in photographs if p.set != "train"}
    assert held == {
        "picosdeeuropa",
        "life_by_Aitzol",
        "friends_by_Aitzol",
        "castle-maintenon",
        "cincinnati-bridge",
        "Picture_1A",
        "EveningGlow",
        "Garden",
        "FallenLeaf",
        "Kleiber_by_Lukas",
        "Wall",
    }
    files = [(p.package, p.file) for p in photographs]
    assert len(set(files)) == len(files)
    for photograph in photographs:
        assert photograph.license and photograph.package not in RESERVED
        assert photograph.source in ("debian", "npm", "pypi")
        assert bool(photograph.version) == (photograph.source != "debian")
        assert photograph.package in photo_sets.__doc__ or photograph.package.startswith("startbootstrap-")


def resource_file(version=3, flags=unpack_rcc.COMPRESSED, name="b.txt", magic=b"qres"):
    """`a/NAME`, by `flags`, and `c.bin`, as it is. Layout by hand: 20 bytes of header, contents, names, nodes."""
    text = b"compressed" * 9
    stored = struct.pack(">I", len(text)) + zlib.compress(text)
    contents = struct.pack(">I", len(stored)) + stored
    second = len(contents)
    contents += struct.pack(">I", 3) + b"raw"
    names, at = b"", {}
    for own in ("a", name, "c.bin"):
        at[own] = len(names)
        names += struct.pack(">HI", len(own), 0) + own.encode("utf-16-be")
    time = bytes(8) if version > 1 else b""
    nodes = struct.pack(">IHII", 0, 2, 2, 1) + time
    nodes += struct.pack(">IHII", at["a"], 2, 1, 3) + time
    nodes += struct.pack(">IHHHI", at["c.bin"], 0, 0, 1, second) + time
    nodes += struct.pack(">IHHHI", at[name], flags, 0, 1, 0) + time
    start = 20 + len(contents) + len(names)
    return magic + struct.pack(">4I", version, start, 20, 20 + len(contents)) + contents + names + nodes


@pytest.mark.parametrize("version", [1, 2, 3])
def test_unpacked_resources(tmp_path, version):
    (tmp_path / "data.rcc").write_bytes(resource_file(version))
    result = CliRunner().invoke(unpack_rcc.main, [str(tmp_path / "data.rcc"), str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out/a/b.txt").read_bytes() == b"compressed" * 9
    assert (tmp_path / "out/c.bin").read_bytes() == b"raw"


@pytest.mark.parametrize(
    "data, message",
    [
        (resource_file(magic=b"qrcs"), "not a Qt resource file"),
        (resource_file(version=4), "version 4"),
        (resource_file(flags=4), "unsupported method"),
        (resource_file(name="../../b.txt"), "out of the folder"),
        (resource_file()[:-30], "damaged"),
        (resource_file().replace(zlib.compress(b"compressed" * 9)[2:6], b"\xff" * 4), "damaged"),
        (b"", "not a Qt resource file"),
    ],
)
def test_refused_resources(tmp_path, data, message):
    (tmp_path / "data.rcc").write_bytes(data)
    result = CliRunner().invoke(unpack_rcc.main, [str(tmp_path / "data.rcc"), str(tmp_path / "out")])
    assert result.exit_code == 1 and "data.rcc" in result.output and message in result.output, result.output
    assert not (tmp_path / "b.txt").exists()
