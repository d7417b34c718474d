"""`dkic measure --ray`: the table of a local run, also if processes and machines of the cluster fail."""

import os
import signal

import pytest
from command_line import dkic

from dkic.rate_control import cached_meter
from dkic.rate_control import cluster as cluster_module

pytest.importorskip("ray", reason="Ray is not installed: pip install -e '.[cluster]'")


@pytest.fixture(scope="module")
def cluster():
    """Two machines with a worker each, beside the one that the command runs on, which has none."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_USAGE_STATS_ENABLED", "0")
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        yield cluster
        cluster.shutdown()


@pytest.fixture(scope="module")
def expected(model, images, tmp_path_factory) -> bytes:
    """The local run's table, with a cache folder of its own."""
    folder = tmp_path_factory.mktemp("local")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("DKIC_CACHE", str(folder / "cache"))
        assert dkic("measure", images, "-o", folder / "local.csv", *options(model)).status == 0
    return (folder / "local.csv").read_bytes()


@pytest.fixture
def meter(monkeypatch):
    """Has workers do something else first when they are to measure: `meter(before)`, called with image and quality."""

    original = cached_meter.Meter

    def use(before):
        class Meter(original):
            def measure(self, image, point):
                before(image, point.quality)
                return super().measure(image, point)

        monkeypatch.setattr(cached_meter, "Meter", Meter)

    return use


def ours(text: str) -> list[str]:
    """The lines of an output that are not Ray's own, which tells of a worker that died."""
    return [line for line in text.splitlines() if "(raylet)" not in line]


def options(model) -> tuple[object, ...]:
    return "--model", model, "--distortion", "mse"


def test_a_killed_worker_loses_no_measurement(cluster, model, images, tmp_path, expected, meter, decoded):
    killed = tmp_path / "killed"

    def before(image, quality):
        if image.height == 90 and quality == 2 and not killed.exists():  # of the second image, in the middle
            killed.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)

    meter(before)
    del decoded[:]
    result = dkic("measure", images, "-o", tmp_path / "t.csv", "--ray", cluster.address, *options(model))
    assert result.status == 0 and ours(result.out) == [f"{tmp_path / 't.csv'}: 9 rows, 3 images at quality 1, 2, 5"]
    assert "Traceback" not in result.err
    assert int(killed.read_text()) != os.getpid()
    assert (tmp_path / "t.csv").read_bytes() == expected
    assert decoded == []  # nothing was measured here


def test_an_image_that_kills_every_worker_is_skipped(cluster, model, images, tmp_path, expected, meter, decoded, monkeypatch):
    monkeypatch.setattr(cluster_module, "_MOST_LOST", 2)  # to begin with another one takes many seconds
    killed = tmp_path / "killed"

    def before(image, quality):
        if image.height == 90 and quality == 2:
            with open(killed, "a") as file:
                file.write("x")
            os.kill(os.getpid(), signal.SIGKILL)

    meter(before)
    given = ("measure", images, *options(model))
    result = dkic(*given, "-o", tmp_path / "t.csv", "--ray", cluster.address)
    assert result.status == 1 and ours(result.out) == [f"{tmp_path / 't.csv'}: 6 rows, 2 images at quality 1, 2, 5"]
    assert killed.read_text() == "xx" and "Traceback" not in result.err
    (line,) = [line for line in result.err.splitlines() if line.startswith("dkic: ")]
    assert line.startswith(f"dkic: {images / 'b.png'}: 2 workers in a row died while measuring it, ")
    others = [line for line in expected.splitlines(keepends=True) if b"b.png" not in line]
    assert (tmp_path / "t.csv").read_bytes() == b"".join(others)
    meter(lambda image, quality: None)
    del decoded[:]
    assert dkic(*given, "-o", tmp_path / "all.csv").status == 0
    assert (tmp_path / "all.csv").read_bytes() == expected and len(decoded) == 3  # of that image


def test_failures_are_reported_and_cached_measurements_are_reused(cluster, model, images, tmp_path, expected, meter):
    text = tmp_path / os.fsdecode(b"text\n\xff.png")  # any name travels
    text.write_text("this is text\n")
    given = (text, images, tmp_path / "missing.png", *options(model))
    here = dkic("measure", *given, "-o", tmp_path / "here.csv")

    def before(image, quality):
        raise AssertionError("measured again")

    meter(before)
    there = dkic("measure", *given, "-o", tmp_path / "there.csv", "--ray", cluster.address)
    assert here.status == there.status == 1
    assert here.err.replace("here.csv", "") == there.err.replace("there.csv", "") and len(here.err.splitlines()) == 2
    assert (tmp_path / "there.csv").read_bytes() == expected


def test_measurements_are_kept_if_the_cluster_fails(cluster, model, images, tmp_path, expected, meter, cache):
    def before(image, quality):
        if image.height == 90:
            raise ValueError("a mistake of ours")

    meter(before)
    given = ("measure", images, "-o", tmp_path / "t.csv", "--ray", cluster.address, *options(model))
    result = dkic(*given)
    assert result.status == 1 and ours(result.out) == [] and not (tmp_path / "t.csv").exists()
    (line,) = [line for line in result.err.splitlines() if line.startswith("dkic: ")]
    assert "the cluster failed (" in line and "a mistake of ours" in line and "Traceback" not in result.err
    meter(lambda image, quality: None)
    assert dkic(*given).status == 0
    assert (tmp_path / "t.csv").read_bytes() == expected


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:1", "--ray 127.0.0.1:1: no answer (Connection refused); see `ray status`"),
        ("no.such.host.invalid:6379", "--ray no.such.host.invalid:6379: no answer ("),
        ("127.0.0.1:99999", "--ray 127.0.0.1:99999: no answer ("),
        ("ray://127.0.0.1:10001", "--ray 'ray://127.0.0.1:10001': must be auto or HOST:PORT"),
        ("nonsense", "--ray 'nonsense': must be"),
        ("", "--ray '': must be"),
    ],
)
def test_an_unreachable_cluster_is_refused(model, images, tmp_path, decoded, address, said):
    result = dkic("measure", images, "-o", tmp_path / "t.csv", "--ray", address, *options(model))
    assert (result.status, result.out) == (2, "") and len(result.err.splitlines()) == 1
    assert said in result.err and decoded == [] and not (tmp_path / "t.csv").exists()  # not here instead


def test_a_lost_machine_loses_no_measurement(cluster, model, images, tmp_path, expected, meter):
    """The last test: the machine is gone then."""
    lost = tmp_path / "lost"

    def before(image, quality):
        if image.height == 90 and quality == 2 and not lost.exists():
            lost.touch()
            os.kill(os.getppid(), signal.SIGKILL)  # the raylet, which is the machine to the cluster

    meter(before)
    result = dkic("measure", images, "-o", tmp_path / "t.csv", "--ray", cluster.address, *options(model))
    assert result.status == 0 and lost.exists() and "Traceback" not in result.err
    assert (tmp_path / "t.csv").read_bytes() == expected
