"""benchmarks/report.py: the pages that it writes from artificial results, errors, and the repository's own pages."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.report import files_of, pages_of, rows_of, spliced, stored_in, time_text, times, works
from benchmarks.stored_table import StoredTable

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

    def run(benchmarks: list[dict], page: str, *options: str) -> subprocess.CompletedProcess:
        (tmp_path / "results.json").write_text(json.dumps({"benchmarks": benchmarks}))
        (tmp_path / "docs").mkdir(exist_ok=True)
        (tmp_path / "docs" / "page.md").write_text(page)
        command = [sys.executable, "-m", "benchmarks.report", str(tmp_path / "results.json"), "--root", str(tmp_path)]
        return subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True)

    return run


PAGE = "before\n<!-- results/results.json -->\nold\n<!-- /results -->\nafter\n"


def test_table_and_charts_are_written(report, tmp_path):
    child = report(RESULTS, PAGE)
    assert child.returncode == 0, child.stderr
    text = (tmp_path / "docs" / "page.md").read_text()
    before, rest = text.split("<!-- results/results.json -->")
    table, after = rest.split("<!-- /results -->")
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
    assert (
        report(json.loads((tmp_path / "benchmarks" / "results" / "results.json").read_text())["benchmarks"], PAGE).returncode == 0
    )
    assert (tmp_path / "docs" / "page.md").read_text() == text
    for name in ("ratios.png", "growth.png"):
        assert (tmp_path / "docs" / "images" / name).read_bytes().startswith(b"\x89PNG")


def test_gpu_results_have_their_own_table(report, tmp_path):
    row = entry("an op, GPU", "dkic", 0.004, gpu="A GPU")
    page = "before\n<!-- results/results_gpu.json -->\nold\n<!-- /results -->\n"
    assert report([row], page).returncode == 0
    text = (tmp_path / "docs" / "page.md").read_text()
    assert (
        text.startswith("before\n")
        and "old" not in text
        and "| an op, GPU | 4.00 ms |" in text
        and "Medians on A GPU, A CPU" in text
    )
    assert [path.name for path in (tmp_path / "benchmarks" / "results").iterdir()] == ["results_gpu.json"]
    assert not (tmp_path / "docs" / "images").exists()


def test_writing_the_report_again_changes_nothing(report, tmp_path):
    report(RESULTS, PAGE)
    once = (tmp_path / "docs" / "page.md").read_text()
    assert report(RESULTS, once).returncode == 0
    assert (tmp_path / "docs" / "page.md").read_text() == once


def test_parts_of_named_results(report, tmp_path):
    page = "<!-- results/peers.json: cod -->\n<!-- /results -->\n<!-- results/peers.json: an op -->\n<!-- /results -->\n"
    assert report(RESULTS, page, "--name", "peers").returncode == 0
    coding, op = (tmp_path / "docs" / "page.md").read_text().split("<!-- /results -->")[:2]
    assert "| coding | 40.0 µs |" in coding and "an op" not in coding
    assert "| an op | 4.00 ms |" in op and "| coding" not in op
    assert not (tmp_path / "docs" / "images").exists()


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("none", "no page has the line <!-- results/results.json -->"),
        ("<!-- /results -->\n<!-- results/results.json -->\n", "needs a line <!-- /results -->"),
        (PAGE + "<!-- results/results.json -->\n", "needs a line <!-- /results -->"),
        (PAGE + "<!-- results/other.csv -->\n<!-- /results -->", "other.csv is missing"),
        ("<!-- results/results.json: no such op -->\n<!-- /results -->", "hold no row of dkic's"),
    ],
)
def test_a_page_that_cannot_be_written_is_unchanged(report, tmp_path, page, message):
    child = report(RESULTS, page)
    assert child.returncode == 1 and message in child.stderr
    assert (tmp_path / "docs" / "page.md").read_text() == page and not (tmp_path / "benchmarks").exists()


@pytest.mark.parametrize("benchmarks", [[], [entry("an op", "its peer", 0.5)]])
def test_results_without_dkic_are_refused(report, tmp_path, benchmarks):
    child = report(benchmarks, PAGE)
    assert child.returncode == 1 and "hold no row of dkic's" in child.stderr
    assert (tmp_path / "docs" / "page.md").read_text() == PAGE


STORED = StoredTable(
    "a command", "A CPU", "PyTorch 9", "abcdef0", ("rate", "codec", "dB"), (("1", "a", "2.50"), ("2", "b, c", ""))
)


def test_stored_table():
    assert StoredTable.parse(STORED.text()) == STORED
    assert STORED.text().startswith("# command: a command\n# machine: A CPU\n") and '2,"b, c",\n' in STORED.text()
    page = "<!-- results/t.csv -->\n<!-- /results -->\n<!-- results/t.csv: 2 -->\n<!-- /results -->"
    whole, part = spliced(page, {"t.csv": STORED.text()}).split("<!-- /results -->")[:2]
    assert "| rate | codec | dB |\n| --- | --- | --- |\n| 1 | a | 2.50 |\n| 2 | b, c |  |\n\n*`a command`; A CPU, " in whole
    assert "| codec | dB |\n| --- | --- |\n| b, c |  |\n" in part and "abcdef0" in part


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (STORED.text().replace("# commit: abcdef0\n", ""), "facts must be"),
        (STORED.text() + "3,d\n", "must have 3 cells"),
    ],
)
def test_malformed_stored_tables_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        StoredTable.parse(text)


@pytest.mark.parametrize("page", pages_of(ROOT), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_pages_show_the_stored_results(page):
    """`python -m benchmarks.report` changes nothing."""
    assert spliced(page.read_text(), stored_in(ROOT)) == page.read_text()


def test_every_stored_file_is_shown():
    assert {file for page in pages_of(ROOT) for file in files_of(page.read_text())} == set(stored_in(ROOT))


TIME, RATIO = r"[\d.]+ (?:s|ms|µs)\b", r"\b[\d.]+x(?= |$)"
SUMMARIES = ["README.md", *(f"docs/kernels/{op}.md" for op in ("ldcn", "deform_conv2d", "gaussian_likelihood", "rans"))]


@pytest.mark.parametrize("page", SUMMARIES)
def test_times_in_summaries_are_those_of_the_benchmarks(page):
    """Times and speedups in tables that select a few of the benchmarks: README, and Speed of the kernels."""
    stored = [json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text()) for name in ("results", "results_gpu")]
    rows = [row for results in stored for row in rows_of(results)]
    known = {time_text(row.seconds) for row in rows}
    known |= {times(own, other) for own, *others in works(rows).values() for other in others}
    text = (ROOT / page).read_text()
    speed = text if page == "README.md" else text[text.index("\n## Speed") :].split("\n## ")[1]
    cells = [cell.strip() for line in speed.splitlines() if line.startswith("| ") for cell in line.split("|")[1:-1]]
    found = [number for cell in cells for number in re.findall(f"{TIME}|{RATIO}", cell)]
    assert len(found) >= 3 and set(found) - known == set()
