"""benchmarks/report.py on artificial results: the page that it writes, and errors."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MACHINE = {"torch": "9.9.9", "commit": "abcdef0", "cpu": "A CPU", "threads": 2}


def entry(group: str, implementation: str, median: float, **facts) -> dict:
    """A benchmark as written by pytest-benchmark, without fields that the report does not use."""
    return {"group": group, "stats": {"median": median}, "extra_info": MACHINE | {"implementation": implementation} | facts}


def growth(name: str, pixels: int, median: float) -> dict:
    return entry(f"growth: {name}, {pixels}", "dkic", median, growth=name, pixels=pixels)


RESULTS = [
    entry("an op", "its peer", 0.5),
    entry("an op", "a floor", 0.0009999),
    entry("an op", "dkic", 0.004, gb_per_s=12.345, share_of_copy_bandwidth=0.5, times_roofline=2.345),
    entry("coding", "its peer", 2e-5, bytes=102, over_ideal=0.01),
    entry("coding", "dkic", 4e-5, bytes=101, over_ideal=0.001),
    entry("solving", "stopped", 5.0, gap=None),
    entry("solving", "near", 5.0, gap=0.0123),
    entry("solving", "dkic", 0.5, gap=0.0),
    entry("alone", "dkic", 1.5, peak_memory=1_234_000_000),
    entry("a peer alone", "its peer", 1.0),
    # 0.25 s + 1 s a megapixel
    *(growth("straight", n, 0.25 + n / 1e6) for n in (4_000_000, 1_000_000, 250_000)),
    *(growth("bent", n, t) for n, t in ((1_000_000, 1.0), (2_000_000, 2.0), (4_000_000, 8.0))),
    *(growth("too few", n, 1.0) for n in (1, 2)),
]


@pytest.fixture
def report(tmp_path):
    """Runs the report on benchmarks and a page; returns the finished process."""

    def run(benchmarks: list[dict], page: str) -> subprocess.CompletedProcess:
        (tmp_path / "results.json").write_text(json.dumps({"benchmarks": benchmarks}))
        (tmp_path / "page.md").write_text(page)
        command = [sys.executable, "-m", "benchmarks.report", str(tmp_path / "results.json")]
        command += ["--page", str(tmp_path / "page.md"), "--folder", str(tmp_path / "results")]
        command += ["--charts", str(tmp_path / "charts")]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    return run


PAGE = "before\n<!-- benchmarks -->\nold\n<!-- /benchmarks -->\nafter\n"


def test_table_and_charts_are_written(report, tmp_path):
    child = report(RESULTS, PAGE)
    assert child.returncode == 0, child.stderr
    text = (tmp_path / "page.md").read_text()
    before, rest = text.split("<!-- benchmarks -->")
    table, after = rest.split("<!-- /benchmarks -->")
    assert (before, after) == ("before\n", "\nafter\n")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("|")]
    assert rows[2:9] == [
        ["an op", "4.00 ms", "12.3 GB/s, 50% of copy bandwidth; 2.35x the roofline", "its peer 500 ms", "125x"],
        ["", "", "", "a floor 1.00 ms", "0.25x"],
        [
            "coding",
            "40.0 µs",
            "101 bytes; +0.10% over the ideal size",
            "its peer 20.0 µs (102 bytes; +1.00% over the ideal size)",
            "0.5x",
        ],
        ["solving", "500 ms", "optimal", "stopped 5.00 s (nothing found)", "10x"],
        ["", "", "", "near 5.00 s (gap 0.01)", "10x"],
        ["alone", "1.50 s", "peak memory 1.23 GB", "", ""],
        ["benchmark", "a", "b, per megapixel", "largest deviation (goal: at most 25%)"],
    ]
    assert rows[10] == ["straight", "250 ms", "1.00 s", "0%"]
    assert rows[11][0] == "bent" and 25 < int(rows[11][3].rstrip("%")) < 50
    assert len(rows) == 12 and "old" not in text and "a peer alone" not in text and "too few" not in text
    assert "Medians on A CPU, 2 threads, torch 9.9.9, commit abcdef0:" in table
    # The stored results give the same page.
    assert report(json.loads((tmp_path / "results" / "results.json").read_text())["benchmarks"], PAGE).returncode == 0
    assert (tmp_path / "page.md").read_text() == text
    for name in ("ratios.png", "growth.png"):
        assert (tmp_path / "charts" / name).read_bytes().startswith(b"\x89PNG")


def test_gpu_results_have_their_own_table(report, tmp_path):
    row = entry("an op, GPU", "dkic", 0.004, gpu="A GPU")
    page = PAGE + "<!-- benchmarks, GPU -->\nold\n<!-- /benchmarks, GPU -->\n"
    assert report([row], page).returncode == 0
    text = (tmp_path / "page.md").read_text()
    assert text.startswith(PAGE) and "| an op, GPU | 4.00 ms |" in text and "Medians on A GPU, A CPU" in text
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["results_gpu.json"]
    assert not (tmp_path / "charts").exists()


def test_writing_the_report_again_changes_nothing(report, tmp_path):
    report(RESULTS, PAGE)
    once = (tmp_path / "page.md").read_text()
    assert report(RESULTS, once).returncode == 0
    assert (tmp_path / "page.md").read_text() == once


@pytest.mark.parametrize("page", ["none", PAGE + PAGE, "<!-- /benchmarks -->\n<!-- benchmarks -->\n"])
def test_a_page_without_markers_is_unchanged(report, tmp_path, page):
    child = report(RESULTS, page)
    assert child.returncode == 1 and "once each and in this order" in child.stderr
    assert (tmp_path / "page.md").read_text() == page and not (tmp_path / "results").exists()


@pytest.mark.parametrize("benchmarks", [[], [entry("an op", "its peer", 0.5)]])
def test_results_without_dkic_are_refused(report, tmp_path, benchmarks):
    child = report(benchmarks, PAGE)
    assert child.returncode == 1 and "hold no row of dkic's" in child.stderr
    assert (tmp_path / "page.md").read_text() == PAGE
