"""No op synchronizes with the GPU: their Python code runs on fake CUDA tensors, without a GPU.

Without one, autograd can't run on such tensors; the interpreted tests run the backward passes' own code.
"""

import pytest
import torch
from host_reads import NoHostReads
from torch._subclasses.fake_tensor import FakeTensorMode

from dkic.ops import backends, deform_conv2d, gaussian_indexes, gaussian_likelihood, gaussian_symbols, ldcn


def tensors(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    return [torch.empty(shape, device="cuda", requires_grad=True) for shape in shapes]


LATENT = (2, 8, 4, 4)
CALLS = {
    "ldcn": lambda: ldcn(*tensors((2, 4, 6, 6), (2, 18, 6, 6), (2, 9, 6, 6))),
    "deform_conv2d": lambda: deform_conv2d(*tensors((2, 4, 6, 6), (2, 18, 6, 6), (4, 4, 3, 3), (4,)), padding=1),
    "gaussian_likelihood, noise": lambda: gaussian_likelihood(*tensors(LATENT, LATENT, LATENT), quantize="noise"),
    "gaussian_likelihood, sum": lambda: gaussian_likelihood(*tensors(LATENT, LATENT), quantize="round", reduction="sum"),
    "gaussian_symbols": lambda: gaussian_symbols(*(t.detach() for t in tensors(LATENT, LATENT, LATENT))),
    "gaussian_symbols, other scales": lambda: gaussian_symbols(
        *(t.detach() for t in tensors(LATENT, LATENT)), scales=[0.5, 1.0, 2.0], rule="next_larger"
    ),
    "gaussian_indexes": lambda: gaussian_indexes(tensors(LATENT)[0].detach()),
}


@pytest.fixture
def as_if_on_a_gpu(monkeypatch):
    monkeypatch.setattr(backends, "check_runs", lambda op, device: None)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_no_op_reads_the_host(call, as_if_on_a_gpu):
    with FakeTensorMode(), NoHostReads():
        results = call()
        results = results if isinstance(results, tuple) else (results,)
        assert all(t.device.type == "cuda" for t in results)


@pytest.mark.parametrize(
    "read",
    [
        lambda t: t.item(),
        bool,
        lambda t: torch.equal(t, t + 0),
        lambda t: t.nonzero(),
        lambda t: t.unique(),
        lambda t: t[t > 0],
        lambda t: torch.masked_select(t, t > 0),
    ],
)
def test_a_read_is_noticed(read):
    with pytest.raises(AssertionError), NoHostReads():
        read(torch.ones(1))


@pytest.mark.parametrize(
    "copy",
    [
        lambda t: t.cpu(),
        lambda t: t.to("cpu", torch.float64),
        lambda t: torch.ones(1).to(t),
        lambda t: torch.ones(1).cuda(),
        lambda t: t.copy_(torch.ones(1)),
        lambda t: torch.tensor([1.0, 2.0], device="cuda"),
    ],
)
def test_a_copy_between_devices_is_noticed(copy):
    with FakeTensorMode():
        t = torch.ones(1, device="cuda")
        with pytest.raises(AssertionError, match="copies a tensor"), NoHostReads():
            copy(t)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_stays_on_its_device_passes(device):
    with FakeTensorMode(), NoHostReads():
        t = torch.ones(3, device=device)
        index = torch.zeros(2, dtype=torch.int64, device=device)
        assert t.to(torch.float64).copy_(t)[index].masked_fill(t[index] > 0, 0.0).shape == (2,)
