"""The `dkic` command for users: exit statuses, messages, and that no file is lost or partially written."""

import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from command_line import dkic, dkic_process
from photographs import crop
from PIL import Image
from trained_weights import THREE_QUALITIES

from dkic import cli
from dkic.coding import codec as codec_module
from dkic.hub import find_weights


@pytest.fixture
def folder(tmp_path):
    """a.png, b.jpg and c.webp; text.png is text."""
    Image.fromarray(crop(48, 64)).save(tmp_path / "a.png")
    Image.fromarray(crop(50, 30)).save(tmp_path / "b.jpg", quality=95)
    Image.fromarray(crop(33, 40)).save(tmp_path / "c.webp", lossless=True)
    (tmp_path / "text.png").write_text("this is text\n")
    return tmp_path


@pytest.fixture
def coded(folder):
    path = folder / "coded.dkic"
    assert dkic("compress", folder / "a.png", "-o", path).status == 0
    return path


def files(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def failure(*arguments: object, status: int = 1) -> str:
    """The one line that the command fails with."""
    result = dkic(*arguments)
    lines = result.err.splitlines()
    assert result.status == status and result.out == "" and len(lines) == 1, result
    assert lines[0].startswith("dkic: ") and result.err.endswith("\n")
    return lines[0].removeprefix("dkic: ")


@pytest.mark.parametrize("command", ["compress", "decompress"])
def test_a_missing_gpu_is_reported(folder, coded, command, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    source, target = {"compress": (folder / "a.png", "o.dkic"), "decompress": (coded, "o.png")}[command]
    before = files(folder)
    line = failure(command, source, "-o", folder / target, "--device", "cuda", status={"compress": 2, "decompress": 1}[command])
    assert "PyTorch finds no GPU for cuda; use cpu" in line and files(folder) == before


def wrong_usage(*arguments: object) -> str:
    """The error line of wrong usage: click's, or dkic's."""
    result = dkic(*arguments)
    assert result.status == 2 and result.out == "", result
    last = result.err.splitlines()[-1]
    assert last.startswith(("Error: ", "dkic: "))
    return last


# One image


def test_compress_and_decompress(folder):
    result = dkic("compress", folder / "a.png", "-o", folder / "x.dkic")
    size = (folder / "x.dkic").stat().st_size
    assert (result.status, result.err) == (0, "")
    assert result.out.startswith(f"{folder / 'a.png'} -> {folder / 'x.dkic'}: {size} bytes, {size * 8 / 48 / 64:.3f} bpp, ")
    result = dkic("decompress", folder / "x.dkic", "-o", folder / "x.png")
    assert (result.status, result.err) == (0, "")
    assert f"{folder / 'x.png'}: 64x48, decoded in " in result.out
    with Image.open(folder / "x.png") as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (64, 48))
        expected = codec_module.load().decompress((folder / "x.dkic").read_bytes(), "numpy")
        assert np.array_equal(image, expected)


@pytest.mark.parametrize(
    ("suffix", "kind"), [("jpg", "JPEG"), ("webp", "WEBP"), ("tiff", "TIFF"), ("ppm", "PPM"), ("BMP", "BMP")]
)
def test_the_suffix_selects_the_output_format(folder, coded, suffix, kind):
    assert dkic("decompress", coded, "-o", folder / f"x.{suffix}").status == 0
    with Image.open(folder / f"x.{suffix}") as image:
        assert (image.format, image.size) == (kind, (64, 48))


@pytest.mark.parametrize("name", ["x.gif", "x", "x.dkic", "x.pgm"])
def test_an_unsupported_suffix_is_refused(folder, coded, name):
    before = files(folder)
    assert str(folder / name) in failure("decompress", coded, "-o", folder / name)
    assert files(folder) == before


def test_exif_orientation_is_applied(folder):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees, clockwise
    Image.fromarray(crop(20, 90)).save(folder / "turned.jpg", exif=exif)
    assert dkic("compress", folder / "turned.jpg", "-o", folder / "t.dkic").status == 0
    assert "size: 20x90\n" in dkic("info", folder / "t.dkic").out


def test_grayscale_stays_grayscale(folder):
    Image.fromarray(crop(20, 30)).convert("L").save(folder / "gray.png")
    assert dkic("compress", folder / "gray.png", "-o", folder / "g.dkic").status == 0
    assert "size: 30x20, grayscale\n" in dkic("info", folder / "g.dkic").out
    assert dkic("decompress", folder / "g.dkic", "-o", folder / "g.pgm").status == 0
    with Image.open(folder / "g.pgm") as image:
        assert (image.mode, image.size) == ("L", (30, 20))


# Several images


def test_several_images_go_into_a_folder(folder):
    inputs = [folder / name for name in ("a.png", "b.jpg", "c.webp")]
    result = dkic("compress", *inputs, "-o", folder / "made" / "here")
    assert result.status == 0
    coded = [folder / "made" / "here" / f"{name}.dkic" for name in "abc"]
    assert sorted(coded[0].parent.iterdir()) == coded
    assert [line.partition(" -> ")[0] for line in result.out.splitlines()] == [str(path) for path in inputs]
    assert dkic("decompress", *coded, "-o", folder / "back").status == 0
    assert sorted(path.name for path in (folder / "back").iterdir()) == ["a.png", "b.png", "c.png"]


@pytest.mark.parametrize("out", ["there", "new/"])
def test_one_image_goes_into_a_folder_too(folder, out):
    (folder / "there").mkdir()
    assert dkic("compress", folder / "a.png", "-o", f"{folder}/{out}").status == 0
    assert (folder / out / "a.dkic").is_file()


def test_an_image_that_fails_does_not_stop_the_others(folder):
    names = ("a.png", "text.png", "missing.png", "b.jpg")
    result = dkic("compress", *(folder / name for name in names), "-o", folder / "out")
    assert result.status == 1
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["a.dkic", "b.dkic"]
    complaints = [line for line in result.err.splitlines() if line.startswith("dkic: ")]
    assert [line.split(": ")[1] for line in complaints] == [str(folder / "text.png"), str(folder / "missing.png")]


def test_equal_output_names_are_refused_before_work_begins(folder):
    Image.fromarray(crop(8, 8)).save(folder / "a.bmp")
    said = wrong_usage("compress", folder / "a.png", folder / "b.jpg", folder / "a.bmp", "-o", folder / "out")
    assert "a.png" in said and "a.bmp" in said and f"{folder / 'out' / 'a.dkic'}: would be the output of both" in said
    assert not (folder / "out").exists()


def test_several_images_need_a_folder(folder, coded):
    before = files(folder)
    assert "is not a folder" in wrong_usage("compress", folder / "a.png", folder / "b.jpg", "-o", coded)
    assert "can't be created" in wrong_usage("compress", folder / "a.png", folder / "b.jpg", "-o", coded / "below")
    assert files(folder) == before


# Existing files are kept


@pytest.mark.parametrize("command", ["compress", "decompress"])
def test_an_existing_output_is_kept_without_force(folder, coded, command):
    source, target = (folder / "a.png", folder / "o.dkic") if command == "compress" else (coded, folder / "o.png")
    target.write_bytes(b"precious")
    said = failure(command, source, "-o", target)
    assert said.startswith(f"{target}: the file exists") and "--force" in said
    assert target.read_bytes() == b"precious"
    assert dkic(command, source, "-o", target, "--force").status == 0
    assert target.read_bytes() != b"precious"


def test_a_failure_keeps_an_existing_output(folder):
    (folder / "o.dkic").write_bytes(b"precious")
    before = files(folder)
    failure("compress", folder / "text.png", "-o", folder / "o.dkic", "--force")
    assert files(folder) == before


def test_the_input_is_never_the_output(folder):
    (folder / "image.dkic").write_bytes((folder / "a.png").read_bytes())  # a name that -o FOLDER gives as well
    before = files(folder)
    assert "is an input itself" in wrong_usage("compress", folder / "a.png", "-o", folder / "a.png", "--force")
    assert "is an input itself" in wrong_usage("compress", folder / "image.dkic", "-o", folder, "--force")
    assert "is an input itself" in wrong_usage("compress", folder / "image.dkic", folder / "a.png", "-o", folder, "--force")
    assert "-o: must not be empty" in wrong_usage("compress", folder / "a.png", "-o", "", "--force")
    assert files(folder) == before


@pytest.mark.parametrize("out", ["missing/o.dkic", "a.png/o.dkic", "/proc/o.dkic", "/dev/full"])
def test_an_unwritable_output_is_named(folder, out):
    before = files(folder)
    path = folder / out  # an absolute path is unchanged
    assert failure("compress", folder / "a.png", "-o", path, "--force").startswith(f"{path}: ")
    assert files(folder) == before


# Wrong images and wrong options


def test_unsupported_images_are_refused_with_advice(folder):
    transparent = Image.fromarray(crop(20, 20))
    transparent.putalpha(128)
    transparent.save(folder / "alpha.png")
    Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20) * 100).save(folder / "deep.png")
    (folder / "empty.png").touch()
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:1000])
    before = files(folder)
    for name, advice in (
        ("alpha.png", "--background white"),
        ("deep.png", "-depth 8"),
        ("text.png", "not a PNG, JPEG, WebP"),
        ("empty.png", "empty"),
        ("cut.png", "cut off in its IDAT chunk"),
        ("missing.png", "No such file"),
    ):
        said = failure("compress", folder / name, "-o", folder / "o.dkic")
        assert said.startswith(f"{folder / name}: ") and advice in said
    assert files(folder) == before


def test_decompressing_another_file_is_refused(folder):
    assert "header: the file begins with" in failure("decompress", folder / "a.png", "-o", folder / "o.png")
    assert "No such file" in failure("decompress", folder / "missing.dkic", "-o", folder / "o.png")
    assert not (folder / "o.png").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--bogus"], "No such option"),
        (["--quality", "high"], "not a valid integer"),
        (["--quality", "255"], "--quality: model small does not have "),
        (["--quality", "-1"], "--quality: model small does not have "),
        (["--threads", "0"], "--threads"),
        (["--threads", "257"], "--threads"),
        (["--threads", "many"], "--threads"),
        (["--model", "nonesuch"], "model nonesuch: "),
        (["--model", "missing/w.safetensors"], "model missing/w.safetensors: "),
        (["--model", __file__], "not a weights file that can be read"),
        (["--model", "long" * 2000], "File name too long"),
    ],
)
def test_wrong_options(folder, options, said):
    before = files(folder)
    assert said in wrong_usage("compress", folder / "a.png", "-o", folder / "o.dkic", *options)
    assert files(folder) == before


@pytest.mark.parametrize("command", ["compress", "decompress"])
def test_missing_arguments_are_named(folder, command):
    assert "Missing argument 'IN...'" in wrong_usage(command, "-o", folder / "o")
    assert "File name too long" in wrong_usage(command, folder / "a.png", "-o", folder / ("long" * 2000))


def test_unknown_commands():
    assert "No such command 'squash'" in wrong_usage("squash")
    assert dkic().status == 2


def test_out_of_memory_is_one_line(folder, monkeypatch):
    def no_memory(*_: object) -> None:
        torch.empty(2**60)

    monkeypatch.setattr(codec_module, "analyze", no_memory)
    said = failure("compress", folder / "a.png", "-o", folder / "o.dkic")
    assert said == f"{folder / 'a.png'}: not enough memory for this image"


def test_out_of_gpu_memory_is_one_line(folder, monkeypatch):
    def no_memory(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr(codec_module, "analyze", no_memory)
    said = failure("compress", folder / "a.png", "-o", folder / "o.dkic")
    assert said == f"{folder / 'a.png'}: not enough memory for this image"


def test_a_bug_shows_its_traceback(folder, monkeypatch):
    def wrong(*_: object) -> None:
        raise RuntimeError("a mistake")

    monkeypatch.setattr(codec_module, "analyze", wrong)
    with pytest.raises(RuntimeError, match="a mistake"):
        dkic("compress", folder / "a.png", "-o", folder / "o.dkic")


# The other commands


def facts(*arguments: object) -> dict[str, str]:
    result = dkic("info", *arguments)
    assert (result.status, result.err) == (0, "")
    return dict(line.split(": ", 1) for line in result.out.splitlines())


def test_info_on_a_file(coded):
    found = facts(coded)
    size = coded.stat().st_size
    assert found["size"] == "64x48"
    assert found["bytes"] == f"{size} ({size * 8 / 64 / 48:.3f} bits per pixel)"
    assert "(small-r" in found["model"] and "quality" in found["model"]
    assert found["arithmetic"] == "exact-1" and found["ICC profile"] == "none"
    assert 0 < int(found["image section"].removesuffix(" bytes")) < size


@pytest.mark.parametrize("model", ["tiny", "paper", "small", "base"])
def test_info_on_a_name(model):
    """Of shipped weights, which may be older than a preset of the name, or else of a preset."""
    found = facts("--model", model)
    assert ("weights" in found) == (model == "small")
    if model == "small":
        assert "small-r" in found["weights"] and "quality 1 to 100" in found["weights"] and "trained" in found
    assert found["parameters"].endswith(" M")
    assert all(found[way].split()[1:4] == ["kMAC", "per", "pixel"] for way in ("encoding", "decoding", "encoding and decoding"))


def test_info_on_a_weights_file():
    path = find_weights(THREE_QUALITIES)[0]
    lines = dkic("info", "--model", path).out.splitlines()
    weights = codec_module.load_weights(path)
    assert lines[0] == f"weights: {path}, quality {weights.quality}, hash {weights.hash.hex()}"
    assert weights.about and all(f"trained: {key}: {value}" in lines for key, value in weights.about.items())


def test_info_needs_a_file_or_a_model(coded):
    assert "give exactly one of them" in wrong_usage("info")
    assert "give exactly one of them" in wrong_usage("info", coded, "--model", "small")
    assert "model nonesuch" in wrong_usage("info", "--model", "nonesuch")


def test_doctor_finds_no_fault():
    result = dkic("doctor")
    assert (result.status, result.err) == (0, "")
    assert result.out.startswith("dkic: ") and "entropy coder: built" in result.out


@pytest.mark.parametrize("command", [None, *cli.cli.commands])
def test_help(command):
    result = dkic(*filter(None, [command, "--help"]))
    assert result.status == 0 and result.out.startswith(f"Usage: dkic {command or ''}".rstrip())
    assert not re.search(r"[a-z,.]\.\.\.", result.out)  # nothing is cut short: only a NAME may have points after it


def test_a_file_name_that_the_terminal_cannot_show(folder):
    (folder / "a.png").rename(folder / "\u00e9\udcff.png")  # a letter beyond ASCII and a byte that is no UTF-8
    result = dkic_process("compress", folder / "\u00e9\udcff.png", "-o", folder / "o.dkic", PYTHONIOENCODING="ascii")
    assert (result.status, result.err) == (0, "")
    assert result.out.startswith(f"{folder}/\\xe9\\udcff.png -> ")


def test_an_unknown_instruction_set_is_refused(folder):
    result = dkic_process("compress", folder / "a.png", "-o", folder / "o.dkic", DKIC_CPU_CAPABILITY="sse9")
    said = "dkic: DKIC_CPU_CAPABILITY must be default, avx2 or avx512, and is sse9\n"
    assert result == (2, "", said) and not (folder / "o.dkic").exists()


def test_a_full_standard_output_is_reported_as_such(folder):
    command = [sys.executable, "-m", "dkic", "compress", str(folder / "a.png"), "-o", str(folder / "o.dkic")]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "dkic: standard output: No space left on device\n")


def test_python_m_dkic_in_a_new_process(folder):
    result = dkic_process("--version")
    assert result.status == 0 and result.out.startswith("dkic, version ")
    result = dkic_process("compress", folder / "text.png", folder / "a.png", "-o", folder / "out", "--threads", "1")
    assert result.status == 1 and "Traceback" not in result.err
    assert (folder / "out" / "a.dkic").is_file() and not (folder / "out" / "text.dkic").exists()
