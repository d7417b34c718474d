"""Models with dkic's ops in a C++ program without Python: the example of docs/cpp.md, which loads only libdkic_cpu.so."""

import re
import subprocess
from pathlib import Path

import pytest
import torch
from build_environment import cxx_compiler
from torch import Tensor, nn

from dkic.nn import DeformConv2dPack
from dkic.ops import gaussian_likelihood, ldcn
from dkic.ops.backends import NATIVE

PAGE = Path(__file__).resolve().parents[2] / "docs/cpp.md"
SHAPE = 1, 8, 6, 7


class Model(nn.Module):
    """The ops that a decoder and a rate estimate call."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.offset = DeformConv2dPack(8, 4, 3, padding=1), nn.Conv2d(4, 18, 1)
        torch.manual_seed(0)
        for p in self.parameters():
            nn.init.normal_(p, std=0.3)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = self.conv(x)
        z = ldcn(y, self.offset(y))
        return y, z, *gaussian_likelihood(z, torch.ones_like(z), quantize="round")


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("program")
    (source,) = re.findall(r"^```cpp\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    (folder / "main.cpp").write_text(source)
    torch_folder = Path(torch.__file__).parent
    include = torch_folder / "include"
    subprocess.run(
        [
            *cxx_compiler(),
            "-std=c++20",
            "-O0",
            f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}",
            "-isystem",
            include,
            folder / "main.cpp",
            "-o",
            folder / "main",
            f"-L{torch_folder / 'lib'}",
            f"-Wl,-rpath,{torch_folder / 'lib'}",
            "-Wl,--no-as-needed",
            "-ltorch",
            "-ltorch_cpu",
            "-lc10",
        ],
        check=True,
    )
    return folder / "main"


def test_a_package_runs_without_python(program, tmp_path):
    model = Model().eval()
    x = (torch.arange(torch.Size(SHAPE).numel()) / torch.Size(SHAPE).numel()).reshape(SHAPE)
    with torch.no_grad():
        expected = model(x)
        exported = torch.export.export(model, (x,))
        package = torch._inductor.aoti_compile_and_package(exported, package_path=str(tmp_path / "model.pt2"))
    run = subprocess.run(
        [program, NATIVE / "libdkic_cpu.so", package, *map(str, SHAPE[1:])], capture_output=True, text=True, env={}, timeout=100
    )
    assert run.returncode == 0, run.stderr
    lines = [line.rsplit(" ", 1) for line in run.stdout.splitlines()]
    assert [shape for shape, _ in lines] == [str(list(y.shape)) for y in expected]
    sums = torch.tensor([float(total) for _, total in lines])
    torch.testing.assert_close(sums, torch.stack([y.sum() for y in expected]), rtol=1e-4, atol=1e-4)
