"""The whole network can move to a GPU, and no op needs the CPU: traced with fake tensors, which need no GPU.

This covers only the forward: torch's autograd engine needs a driver even for fake tensors.
"""

import pytest
import torch
from quantized.quantized_models import CONFIG, converted, trainable
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from dkic.models import DKIC
from dkic.ops import backends
from dkic.quantized import QuantizedConv2d


def float_model() -> DKIC:
    return DKIC(CONFIG)


def moved(model: DKIC, mode: FakeTensorMode) -> DKIC:
    """As model.cuda(): the parameters and buffers of its modules, and what it has hidden elsewhere stays behind."""
    for module in model.modules():
        # Converted layers derive these tensors from weights that have numbers.
        parts = module.parts() if isinstance(module, QuantizedConv2d) and module.converted else None
        for name, t in module.named_parameters(recurse=False):
            module._parameters[name] = nn.Parameter(mode.from_tensor(t.detach()).cuda(), t.requires_grad)
        for name, t in module.named_buffers(recurse=False):
            module._buffers[name] = mode.from_tensor(t).cuda()
        if parts is not None:
            parts = [(part, mode.from_tensor(t).cuda()) for part, t in parts]
            module.parts = lambda parts=parts: parts
    return model


@pytest.mark.parametrize("make", [float_model, trainable, converted])
def test_a_training_step_stays_on_the_gpu(make, monkeypatch):
    monkeypatch.setattr(backends, "op_unavailable_reason", lambda op, device: None)
    model = make()
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        out = moved(model, mode)(torch.rand(2, 3, 64, 128, device="cuda"))
    assert all(isinstance(t, FakeTensor) and t.device.type == "cuda" for t in out)
