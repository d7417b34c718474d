"""Tests, benchmarks and training on a GPU, in one suite with a time limit.

    python -m benchmarks.gpu_session OUT --minutes 25 --photos sets/train
    python -m benchmarks.gpu_session OUT --dry-run              # on a CPU, a few seconds a part
    python -m benchmarks.report OUT/benchmarks.json             # its times, for the documentation

Parts run one after the other, the most valuable first, each in a new process. After each part, its record is added to
OUT/records.json, its output to OUT/suite.log, and its times to OUT/benchmarks.json, so no result is lost at the time limit. A
second run skips the parts that succeeded. The training part uses the remaining time and writes its weights to OUT/training.
ldcn is also compared with DCNv4 if its source package (`pip download --no-deps DCNv4`) is given.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import torch

from benchmarks.source_commit import source_commit
from dkic.doctor import processor
from dkic.errors import DkicError

REPOSITORY = Path(__file__).resolve().parents[1]
TRAINING = "training"
_TABLE = "part.json"  # pytest-benchmark's, of one part
_ALL = "benchmarks.json"
# Tests that compile no kernel at run time come first.
TESTS = (
    "tests/ops/test_ldcn_cuda.py",
    "tests/ops/test_cuda_graphs.py",
    "tests/ops/test_ldcn_triton.py",
    "tests/ops/test_gaussian_likelihood_triton.py",
    "tests/ops/test_gaussian_symbols_triton.py",
    "tests/ops/test_deform_conv2d_triton.py",
    "tests/quantized",
    "tests/coding/test_codec_cuda.py",
)
BENCHMARKS = ("ldcn", "deform_conv2d", "gaussian_likelihood", "host_time", "training", "codec")


@dataclass(frozen=True)
class Part:
    """A part of the suite: arguments of this Python, and the time limit in minutes."""

    name: str
    arguments: tuple[str, ...]
    minutes: float


@dataclass(frozen=True)
class Record:
    """Result of a part. status: 0 for success; -9 beyond the time limit. medians: seconds, of benchmarks."""

    name: str
    command: str
    status: int
    seconds: float
    commit: str
    gpu: str
    output: str
    medians: dict[str, float]


def parts(out: Path, photos: Path | None, minutes: float, dry_run: bool, dcnv4: Path | None = None) -> list[Part]:
    """The suite, in order. dcnv4: the source package of DCNv4."""
    found = [Part("doctor", ("-m", "dkic", "doctor"), 1)]
    if dcnv4 is not None:
        found.append(Part("DCNv4", ("-m", "pip", "install", "--no-deps", "--no-build-isolation", str(dcnv4)), 4))
    tuning = ("--dry-run",) if dry_run else ()
    mark = () if dry_run else ("-m", "cuda")
    chosen = TESTS[3:4] if dry_run else TESTS
    limits = ("--collect-only",) if dry_run else ()
    found += [Part(f"tests: {path}", ("-m", "pytest", "-q", *mark, *limits, path), 4) for path in chosen]
    found.append(Part("tuning: deform_conv2d", ("-m", "benchmarks.tune_deform_conv2d", *tuning), 3))
    for name in BENCHMARKS[:1] if dry_run else BENCHMARKS:
        options = ("--collect-only",) if dry_run else ("-k", "cuda", "--benchmark-only", f"--benchmark-json={out / _TABLE}")
        found.append(Part(f"benchmark: {name}", ("-m", "pytest", "-q", f"benchmarks/bench_{name}.py", *options), 4))
    if not dry_run:
        found.append(Part("training step", ("-m", "benchmarks.profile_training"), 2))
        found.append(Part("training step, compiled", ("-m", "benchmarks.profile_training", "--compile"), 4))
    if photos is not None:
        found.append(Part(TRAINING, training(out, photos, minutes, dry_run), minutes))
    return found


def training(out: Path, photos: Path, minutes: float, dry_run: bool) -> tuple[str, ...]:
    """Continues the training of `small` on larger crops."""
    run, weights = out / "training", REPOSITORY / "relay" / "small.safetensors"
    resumed = ("--resume",) if (run / "checkpoint.pt").exists() else ()
    start = ("--start-from", str(weights)) if weights.exists() and not resumed else ()
    config = REPOSITORY / "configs" / "relay" / ("small_mse.toml" if dry_run else "small_perceptual_gpu.toml")
    limit = 0.05 if dry_run else minutes
    return (
        *("-m", "dkic", "train", str(photos), "--config", str(config), "-o", str(run), "--minutes", f"{limit:.2f}"),
        *("--device", "cpu" if dry_run else "cuda", "--workers", "1" if dry_run else "8", "--save-every", "1000"),
        *start,
        *resumed,
    )


def run(part: Part, seconds: float, log: Path) -> Record:
    """Runs a part with a time limit in seconds."""
    command = [sys.executable, *part.arguments]
    start = time.monotonic()
    try:
        done = subprocess.run(
            command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds
        )
        status, output = done.returncode, done.stdout
    except subprocess.TimeoutExpired as error:
        printed = error.stdout or b""
        status, output = -9, printed.decode(errors="replace") if isinstance(printed, bytes) else printed
    with log.open("a") as file:
        file.write(f"==== {part.name}: {' '.join(command)}\n{output}\n")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else processor()
    took = time.monotonic() - start
    command_line, tail = " ".join(part.arguments), output[-2000:]
    return Record(part.name, command_line, status, round(took, 1), source_commit(), gpu, tail, medians(log.parent))


def medians(out: Path) -> dict[str, float]:
    """Medians by benchmark, from pytest-benchmark's table, which is moved to the end of OUT/benchmarks.json without single times.

    Empty if the table is truncated.
    """
    table, stored = out / _TABLE, out / _ALL
    if not table.exists():
        return {}
    text = table.read_text()
    table.unlink()
    try:
        found = json.loads(text)["benchmarks"]
    except ValueError:
        return {}
    for benchmark in found:
        benchmark["stats"].pop("data", None)
    before = json.loads(stored.read_text())["benchmarks"] if stored.exists() else []
    names = {benchmark["fullname"] for benchmark in found}
    kept = [benchmark for benchmark in before if benchmark["fullname"] not in names]
    stored.write_text(json.dumps({"benchmarks": kept + found}, indent=1))
    return {benchmark["fullname"]: benchmark["stats"]["median"] for benchmark in found}


def run_suite(out: Path, photos: Path | None, minutes: float, dry_run: bool, dcnv4: Path | None = None) -> Iterable[Record]:
    """Runs the parts that have not succeeded yet; yields a record of each."""
    out.mkdir(parents=True, exist_ok=True)
    table, end = out / "records.json", time.monotonic() + 60 * minutes
    records = [Record(**record) for record in json.loads(table.read_text())] if table.exists() else []
    done = {record.name for record in records if record.status == 0} - {TRAINING}
    for part in parts(out, photos, minutes, dry_run, dcnv4):
        left = end - time.monotonic()
        if part.name in done:
            continue
        if left < 20:
            return
        if part.name == TRAINING:  # it ends in time by itself, and writes its weights
            part = Part(TRAINING, training(out, photos or out, (left - 15) / 60, dry_run), part.minutes)
        record = run(part, min(left, 60 * part.minutes + 30), out / "suite.log")
        records.append(record)
        table.write_text(json.dumps([asdict(r) for r in records], indent=1))
        yield record


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--photos",
    type=click.Path(exists=True, path_type=Path),
    help="Photographs to train on; without them there is no training part.",
)
@click.option("--minutes", type=float, default=30, show_default=True, help="Time limit of the suite.")
@click.option(
    "--dcnv4", type=click.Path(exists=True, path_type=Path), help="Source package of DCNv4; without it, DCNv4 is not compared."
)
@click.option("--dry-run", is_flag=True, help="Check all commands on a CPU.")
def main(out: Path, photos: Path | None, minutes: float, dcnv4: Path | None, dry_run: bool) -> None:
    """Run the suite; continue the one in OUT."""
    if not dry_run and not torch.cuda.is_available():
        raise click.ClickException("PyTorch sees no CUDA GPU; check the suite with --dry-run")
    failed = []
    try:
        for record in run_suite(out, photos, minutes, dry_run, dcnv4):
            click.echo(f"{record.name}: status {record.status} in {record.seconds:.1f} s")
            failed += [record.name] * (record.status != 0)
    except (DkicError, OSError) as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"{out}: {'all succeeded' if not failed else 'failed: ' + ', '.join(failed)}")


if __name__ == "__main__":
    main()
