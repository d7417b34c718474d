"""benchmarks/training_hours.py: the rows that it adds, and the chart."""

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import training_hours
from benchmarks.stored_table import StoredTable
from dkic.evaluation.metric_registry import METRICS


@pytest.fixture
def table(tmp_path, monkeypatch):
    path = tmp_path / "training_hours.csv"
    row = ("0.3", "r1", "1: MSE", "1.25", "0.300", *("1" for _ in METRICS))
    path.write_text(StoredTable("a command", "A CPU", "PyTorch 9", "abcdef0", training_hours.COLUMNS, (row,)).text())
    monkeypatch.setattr(training_hours, "TABLE", path)
    monkeypatch.setattr(training_hours, "CHART", tmp_path / "chart.png")
    return path


def test_hours_of_a_networks_legs_are_added(table, tmp_path, monkeypatch):
    monkeypatch.setattr(training_hours, "images_in", lambda folder: type("Found", (), {"images": []}))
    monkeypatch.setattr(training_hours, "load_metrics", dict)
    monkeypatch.setattr(training_hours, "means", lambda *_: {"bpp": 0.29951, **dict.fromkeys(METRICS, 0.123456)})
    for network, leg, hours in (("r1", "2: GAN", "0.5"), ("r2", "1: MSE", "0.25"), ("r2", "2: all", "2")):
        command = ["measure", "small", str(tmp_path), "--network", network, "--leg", leg, "--hours", hours]
        result = CliRunner().invoke(training_hours.main, command)
        assert result.exit_code == 0, result.output
    rows = StoredTable.parse(table.read_text()).rows
    assert [(row[1], row[3]) for row in rows if row[0] == "0.3"] == [
        ("r1", "1.25"),
        ("r1", "1.75"),
        ("r2", "0.25"),
        ("r2", "2.25"),
    ]
    assert [row[0] for row in rows[1:5]] == ["0.075", "0.15", "0.3", "0.6"]
    assert rows[1][2:] == ("2: GAN", "1.75", "0.300", "0.1", "0.123", "0.123", "0.123", "0.12", "0.1235")
    assert CliRunner().invoke(training_hours.main, ["draw"]).exit_code == 0
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_means_are_over_images_at_equal_rates():
    class Codec:
        qualities = (1,)

        def compress(self, pixels, quality=None, target_bpp=None):
            if target_bpp is not None and pixels[0, 0, 0] == 1:
                raise training_hours.DkicError("target_bpp: out of reach; give more")
            return bytes(100 if target_bpp is None else int(target_bpp * pixels[..., 0].size / 8))

        def decompress(self, data, kind):
            return np.zeros((20, 40, 3), np.uint8)

    images = [np.full((20, 40, 3), value, np.uint8) for value in (0, 1)]
    metrics = {"difference": lambda x, x_hat: (x.float() - x_hat.float()).mean((1, 2, 3))}
    found = training_hours.means(Codec(), images, 0.3, metrics)
    assert found == pytest.approx({"bpp": (0.3 + 1.0) / 2, "difference": 0.5})
