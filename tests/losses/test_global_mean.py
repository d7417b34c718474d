"""Two processes with half the batch each get the global batch's means, lambda and gradients."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from losses.one_of_two_processes import RATES, TARGET, batch, network, results

from dkic.losses.global_mean import global_mean


def test_one_process_gives_the_mean():
    t = torch.randn(3, 4, requires_grad=True)
    assert torch.equal(global_mean(t), t.mean())


@pytest.fixture(scope="module")
def halves(tmp_path_factory) -> list[dict[str, torch.Tensor]]:
    folder = tmp_path_factory.mktemp("processes")
    program = Path(__file__).with_name("one_of_two_processes.py")
    commands = [[sys.executable, program, str(rank), folder / "store", folder / f"{rank}.pt"] for rank in (0, 1)]
    children = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    for child in children:
        _, err = child.communicate()
        assert child.returncode == 0, err
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


@pytest.mark.parametrize("name", ["accuracy", "lambda", "D", "G", "rate"])
def test_two_processes_equal_one_with_the_global_batch(halves, name):
    joint = results(network(), *batch(), RATES)
    for half in halves:
        torch.testing.assert_close(half[name], joint[name], rtol=1e-6, atol=1e-7)


def test_half_of_the_batch_would_select_another_lambda():
    assert TARGET.weight(RATES[:2], 0) < TARGET.weight(RATES, 0)
