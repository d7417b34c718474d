"""Files with damage after the image section: refused, or salvaged on request, with a report of what is lost."""

import re
import warnings
import zlib

import numpy as np
import pytest
from coding.image_files import DISPLAY_P3
from command_line import dkic
from photographs import crop
from PIL import Image
from test_container import HEAD, ICC, ICC_HEADER, IMAGE, REFUSED, section

import dkic as package
from dkic.coding.container import MAX_ICC_BYTES, DkicFile, pack, unpack
from dkic.errors import FormatError

PROFILE = b"an ICC profile"
BOMB = section(2, zlib.compress(bytes(MAX_ICC_BYTES + 1)))
NO_PROFILE, NO_FURTHER = "the image is left without an ICC profile", "the file is not read further"
SALVAGED = {  # the file, the profile that is left, and what each sentence says
    "ICC CRC": (ICC_HEADER + IMAGE + ICC[:-1] + b"X", None, [f"ICC section: its CRC32C is .*; {NO_PROFILE}"]),
    "ICC truncated": (ICC_HEADER + IMAGE + ICC[:-1], None, [f"ICC section: the file ends too early.*; {NO_PROFILE}"]),
    "ICC CRC truncated": (ICC_HEADER + IMAGE + ICC[:3], None, [f"ICC section: the file ends too early.*; {NO_PROFILE}"]),
    "ICC missing": (ICC_HEADER + IMAGE, None, [f"ICC section: it is missing.*; {NO_PROFILE}"]),
    "ICC not announced": (HEAD + IMAGE + ICC, None, [f"ICC section: there is one, .*; {NO_PROFILE}"]),
    "ICC not zlib": (ICC_HEADER + IMAGE + section(2, b"no"), None, [f"ICC section: it is not a zlib.*; {NO_PROFILE}"]),
    "ICC bomb": (ICC_HEADER + IMAGE + BOMB, None, [f"ICC section: the profile inflates to more.*; {NO_PROFILE}"]),
    "stray bytes": (HEAD + IMAGE + b"\0\1\2", None, [f"after the image section: .*stray bytes; {NO_FURTHER}"]),
    "stray bytes after ICC": (ICC_HEADER + IMAGE + ICC + b"\0", PROFILE, [f"after the ICC section: .*; {NO_FURTHER}"]),
    "unknown section": (HEAD + IMAGE + section(3, b"x"), None, [f"after the image section: .*type 3.*; {NO_FURTHER}"]),
    "second ICC": (ICC_HEADER + IMAGE + ICC + ICC, PROFILE, [f"ICC section: there is a second one.*; {NO_FURTHER}"]),
    "second image": (HEAD + IMAGE + IMAGE, None, [f"image section: there is a second one.*; {NO_FURTHER}"]),
    "bytes instead of ICC": (
        ICC_HEADER + IMAGE + b"\7\7",
        None,
        [f"after the image section: .*stray bytes; {NO_FURTHER}", f"ICC section: it is missing.*; {NO_PROFILE}"],
    ),
}
BEHIND_THE_IMAGE = {name for name, (data, _) in REFUSED.items() if data.startswith((HEAD + IMAGE, ICC_HEADER + IMAGE))}


@pytest.mark.parametrize(("data", "icc", "sentences"), SALVAGED.values(), ids=SALVAGED.keys())
def test_salvaged(data, icc, sentences):
    with pytest.raises(FormatError) as refused:
        unpack(data)
    file = unpack(data, salvage=True)
    assert (file.header, file.image, file.icc) == (unpack(HEAD + IMAGE).header, b"image payload", icc)
    assert file.lost[0].startswith(str(refused.value))
    assert len(file.lost) == len(sentences)
    for said, wanted in zip(file.lost, sentences, strict=True):
        assert re.fullmatch(wanted, said)


@pytest.mark.parametrize("name", REFUSED)
def test_only_damage_after_the_image_section_is_salvaged(name):
    data, message = REFUSED[name]
    if name in BEHIND_THE_IMAGE:
        assert unpack(data, salvage=True).lost
    else:
        with pytest.raises(FormatError, match=f"^{message}.*; only a file whose header and image section are intact"):
            unpack(data, salvage=True)


def test_an_intact_file_is_decoded_without_notes():
    for data in (HEAD + IMAGE, ICC_HEADER + IMAGE + ICC):
        assert unpack(data, salvage=True) == unpack(data) and unpack(data).lost == ()


@pytest.fixture(scope="module")
def coded() -> bytes:
    image = Image.fromarray(crop(48, 64))
    image.info["icc_profile"] = DISPLAY_P3
    return package.load().compress(image)


def test_the_python_api_warns_about_lost_data(coded):
    codec, damaged = package.load(), coded[:-1] + bytes([coded[-1] ^ 1])
    with pytest.raises(FormatError, match="^ICC section: "):
        codec.decompress(damaged)
    with pytest.warns(UserWarning, match=f"^ICC section: its CRC32C is .*; {NO_PROFILE}$") as warned:
        image = codec.decompress(damaged, salvage=True)
    assert len(warned) == 1 and warned[0].filename == __file__ and "icc_profile" not in image.info
    np.testing.assert_array_equal(np.asarray(image), codec.decompress(coded, "numpy"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert codec.decompress(coded, salvage=True).info["icc_profile"] == DISPLAY_P3
        assert codec.decompress(unpack(coded)).info["icc_profile"] == DISPLAY_P3


def test_the_command_reports_what_is_lost(coded, tmp_path):
    path, out = tmp_path / "x.dkic", tmp_path / "x.png"
    path.write_bytes(coded[:-2])
    refused = dkic("decompress", path, "-o", out)
    assert refused.status == 1 and not out.exists()
    salvaged = dkic("decompress", path, "-o", out, "--salvage")
    assert salvaged.status == 0 and out.exists() and "64x48" in salvaged.out
    assert salvaged.err == f"dkic: {path}: {unpack(coded[:-2], salvage=True).lost[0]}\n"
    file = unpack(coded)
    path.write_bytes(pack(DkicFile(file.header, file.image[:-1] + bytes([file.image[-1] ^ 1]))))
    refused = dkic("decompress", path, "-o", out, "--salvage", "--force")
    assert refused.status == 1 and "image section" in refused.err


def test_a_damaged_image_is_refused_with_the_reason(coded, tmp_path):
    damaged = bytearray(coded)
    damaged[60] ^= 1
    path = tmp_path / "x.dkic"
    path.write_bytes(damaged)
    result = dkic("decompress", path, "-o", tmp_path / "x.png", "--salvage")
    assert result.status == 1 and "only a file whose header and image section are intact can be salvaged" in result.err
