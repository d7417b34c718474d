"""Measurements are cached reliably, also if the cache file is damaged."""

import pytest

from dkic.errors import DkicError
from dkic.evaluation.measurement import Measurement
from dkic.rate_control.measurement_cache import MeasurementCache, image_key

HASH = bytes(range(8))
FIRST, SECOND = Measurement(3072, 91, {"mse": 0.1 + 0.2}), Measurement(6300, 1207, {"mse": 22005.90625})
LPIPS = Measurement(3072, 91, {"lpips": 0.25})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache" / f"measured-{HASH.hex()}.txt"


def opened(path, distortion: str = "mse") -> MeasurementCache:
    return MeasurementCache(path.parent, HASH, distortion)


def test_measurements_are_found_again(path):
    measured = opened(path)
    assert measured.get("a") is None
    measured.add("a", FIRST)
    measured.add("b", FIRST)
    measured.add("b", SECOND)  # the last one counts
    for again in (measured, opened(path)):
        assert (again.get("a"), again.get("b"), again.get("c")) == (FIRST, SECOND, None)


def test_distortions_are_cached_separately(path):
    opened(path).add("a", FIRST)
    assert opened(path, "lpips").get("a") is None
    opened(path, "lpips").add("a", LPIPS)
    assert (opened(path).get("a"), opened(path, "lpips").get("a")) == (FIRST, LPIPS)


def test_operating_points_are_cached_separately(path):
    opened(path).add("a", FIRST, -2)
    assert opened(path).get("a") is opened(path).get("a", 2) is None
    opened(path).add("a", SECOND)
    assert (opened(path).get("a", -2), opened(path).get("a")) == (FIRST, SECOND)
    assert opened(path, "lpips").get("a", -2) is None


def test_two_runs_at_once(path):
    one, other = opened(path), opened(path)
    one.add("a", FIRST)
    other.add("b", SECOND)
    assert (opened(path).get("a"), opened(path).get("b")) == (FIRST, SECOND)


def test_a_cache_file_truncated_anywhere(path):
    for key, option in (("a", FIRST), ("b", SECOND)):
        opened(path).add(key, option)
    whole = path.read_bytes()
    second = whole.index(b"b mse")
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        measured = opened(path)
        assert measured.get("a") in (FIRST, None) and measured.get("b") in (SECOND, None)
        assert measured.get("a") == FIRST or length < second
        measured.add("c", SECOND)
        assert opened(path).get("c") == SECOND and opened(path).get("a") == measured.get("a")


def test_a_cache_file_with_any_byte_changed(path):
    for key, option in (("a", FIRST), ("b", SECOND)):
        opened(path).add(key, option)
    whole = path.read_bytes()
    for at in range(len(whole)):
        for other in (whole[at] ^ 1, 0xFF, ord("\n"), ord(" ")):
            path.write_bytes(whole[:at] + bytes([other]) + whole[at + 1 :])
            measured = opened(path)
            assert measured.get("a") in (FIRST, None) and measured.get("b") in (SECOND, None)


def test_invalid_lines_are_ignored(path):
    opened(path).add("a", FIRST)
    with open(path, "ab") as file:
        file.write(b"\n \n 00000000\n00000000\n" + bytes(100) + b"\n\xff\n")
    assert opened(path).get("a") == FIRST


def test_an_unusable_cache_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DkicError, match=r"measured-0001.*\.txt: can't store measurements \(.*\); set DKIC_CACHE to a writable"):
        MeasurementCache(tmp_path / "file", HASH, "mse")


def test_images_are_identified_by_contents(tmp_path):
    for name, content in (("a", b"x" * 3_000_000), ("b", b"x" * 3_000_000), ("c", b"x" * 2_999_999 + b"y")):
        (tmp_path / name).write_bytes(content)
    a, b, c = (image_key(tmp_path / name) for name in "abc")
    assert a == b != c and len(a) == 32
    with pytest.raises(DkicError, match="d: can't be read .No such file"):
        image_key(tmp_path / "d")
