"""A training step in both stages of the tiny recipe, compared with the same model on torchvision's and CompressAI's ops; on the
CPU and on a GPU if available.
"""

from contextlib import nullcontext

import pytest
import torch
from devices import ON, devices
from peers import peer_ops
from training_run import staged_run, step_of

DKIC, PEER = "dkic", "torchvision + compressai ops"
ROUNDS = {DKIC: 8, PEER: 4}


def check(device: str) -> None:
    """Checks that both compute the same images and the same rate after rounding (the noise of training differs)."""
    run = staged_run(False, device)
    (x,) = run.micro_batches()
    with torch.no_grad():
        ours = run.forward(x)
        with peer_ops():
            theirs = run.forward(x)
    torch.testing.assert_close(ours.quantized_bits, theirs.quantized_bits, rtol=1e-3, atol=0)
    torch.testing.assert_close(ours.bits, theirs.bits, rtol=1e-2, atol=0)
    torch.testing.assert_close(ours.x_hat, theirs.x_hat, rtol=0, atol=1e-2)


@pytest.mark.parametrize("implementation", [PEER, DKIC])  # the peer first: see conftest.py
@pytest.mark.parametrize("device", devices("cuda"))
@pytest.mark.parametrize("gan", [False, True], ids=["first stage", "with discriminator"])
def test_training_step(gan, device, implementation, measure, benchmark):
    check(device)
    run = staged_run(gan, device)
    with peer_ops() if implementation == PEER else nullcontext():
        batch, crop = run.recipe.batch, run.recipe.crop
        work = f"training step, tiny, {batch} crops of {crop}x{crop}, {'second' if gan else 'first'} stage{ON[device]}"
        measure(work, implementation, step_of(run), ROUNDS[implementation], device=device, host_clock=True)
    if not benchmark.disabled:
        benchmark.extra_info["examples_per_s"] = batch / benchmark.extra_info["median"]
