"""One report for several tests, since `dkic evaluate` takes seconds."""

from pathlib import Path
from typing import NamedTuple

import pytest
from command_line import Result, dkic
from lpips_weights import need_backbone
from photographs import crop
from PIL import Image


class Report(NamedTuple):
    """The report's folder, the images' folder, their heights and widths by name, and the command's output."""

    out: Path
    folder: Path
    sizes: dict[str, tuple[int, int]]
    done: Result


@pytest.fixture(scope="session")
def report(tmp_path_factory) -> Report:
    need_backbone("alex")
    need_backbone("vgg")
    folder = tmp_path_factory.mktemp("images")
    sizes = {"a <b> & 'c'": (176, 192), "upright": (208, 161)}
    for i, (name, size) in enumerate(sizes.items()):
        Image.fromarray(crop(*size, top=60 * i)).save(folder / f"{name}.png")
    (folder / "notes.txt").write_text("no image")
    out = tmp_path_factory.mktemp("evaluated") / "report"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", "")  # no bpgenc
        done = dkic(
            "evaluate",
            folder,
            "--codec",
            "jpeg",
            "dkic:small",
            "bpg444",
            "--target-bpp",
            "0.4",
            "1.2",
            "-o",
            out,
            "--metrics",
            "ssimulacra2",
            "dists",
        )
    assert done.status == 0, done.err
    return Report(out, folder, sizes, done)
