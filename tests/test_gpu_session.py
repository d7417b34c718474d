"""benchmarks/gpu_session.py without a GPU: each part is recorded, finished parts are not repeated, failures are reported."""

import json
from pathlib import Path

from benchmarks import gpu_session
from benchmarks.gpu_session import TRAINING, Part, parts, run_suite


def fake(monkeypatch, out: Path, programs: dict[str, str], minutes: float = 1) -> None:
    found = [Part(name, ("-c", code), minutes) for name, code in programs.items()]
    monkeypatch.setattr(gpu_session, "parts", lambda *_: found)


def statuses(out: Path) -> dict[str, int]:
    return {record["name"]: record["status"] for record in json.loads((out / "records.json").read_text())}


def test_every_part_is_recorded(monkeypatch, tmp_path):
    fake(monkeypatch, tmp_path, {"good": "print('hello')", "bad": "raise SystemExit(3)", "after": "print(1)"})
    names = [record.name for record in run_suite(tmp_path, None, 5, True)]
    assert names == ["good", "bad", "after"]
    assert statuses(tmp_path) == {"good": 0, "bad": 3, "after": 0}
    assert "hello" in (tmp_path / "suite.log").read_text()


def test_finished_parts_are_not_repeated(monkeypatch, tmp_path):
    fake(monkeypatch, tmp_path, {"good": "print('hello')", "bad": "raise SystemExit(3)"})
    list(run_suite(tmp_path, None, 5, True))
    fake(monkeypatch, tmp_path, {"good": "raise SystemExit(1)", "bad": "print('mended')"})
    assert [record.name for record in run_suite(tmp_path, None, 5, True)] == ["bad"]
    assert statuses(tmp_path) == {"good": 0, "bad": 0}


def test_a_part_beyond_its_time_limit_is_killed(monkeypatch, tmp_path):
    code = "import time; print('begun', flush=True); time.sleep(60)"
    monkeypatch.setattr(gpu_session, "parts", lambda *_: [Part("slow", ("-c", code), -0.48)])
    (record,) = run_suite(tmp_path, None, 5, True)
    assert record.status == -9 and record.seconds < 30


def table(out: Path, **medians: float) -> str:
    """A program that writes pytest-benchmark's table of one part."""
    rows = [{"fullname": name, "stats": {"median": median, "data": [median] * 3}} for name, median in medians.items()]
    return f"open({str(out / 'part.json')!r}, 'w').write({json.dumps({'benchmarks': rows})!r})"


def test_the_times_of_all_parts_are_kept_in_one_table(monkeypatch, tmp_path):
    fake(monkeypatch, tmp_path, {"first": table(tmp_path, a=1.0, b=2.0), "second": table(tmp_path, b=3.0, c=4.0)})
    assert [record.medians for record in run_suite(tmp_path, None, 5, True)] == [{"a": 1.0, "b": 2.0}, {"b": 3.0, "c": 4.0}]
    stored = json.loads((tmp_path / "benchmarks.json").read_text())["benchmarks"]
    assert [(row["fullname"], row["stats"]) for row in stored] == [
        (n, {"median": m}) for n, m in (("a", 1.0), ("b", 3.0), ("c", 4.0))
    ]
    assert not (tmp_path / "part.json").exists()


def test_a_truncated_table_does_not_end_the_suite(monkeypatch, tmp_path):
    code = f"open({str(tmp_path / 'part.json')!r}, 'w').write('{{\"benchmarks\": [')"
    fake(monkeypatch, tmp_path, {"cut": code, "after": "print(1)"})
    assert [record.medians for record in run_suite(tmp_path, None, 5, True)] == [{}, {}]


def test_no_part_starts_after_the_time_limit(monkeypatch, tmp_path):
    fake(monkeypatch, tmp_path, {"good": "print('hello')"})
    assert list(run_suite(tmp_path, None, 0.1, True)) == []


def test_files_and_recipe_of_the_suite_exist(tmp_path):
    root = gpu_session.REPOSITORY
    found = parts(tmp_path, tmp_path, 5, False)
    paths = [a for part in found for a in part.arguments if a.startswith(("tests/", "benchmarks/"))]
    assert len(paths) > 8 and all((root / path).exists() for path in paths)
    assert found[-1].name == TRAINING and Path(found[-1].arguments[found[-1].arguments.index("--config") + 1]).exists()
