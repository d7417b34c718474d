"""Selection of the training device, and errors if it is not usable."""

import pytest
import torch

from dkic.errors import DkicError
from dkic.ops import backends
from dkic.training.device import device_for


def test_the_default_device_is_a_gpu_and_cpu_can_be_selected():
    assert device_for("cpu").type == "cpu"
    if not torch.cuda.is_available():
        assert device_for().type == "cpu"


def test_a_missing_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DkicError, match="^--device cuda: torch finds no GPU here; train with --device cpu"):
        device_for("cuda")


def test_missing_kernels_of_an_op_are_an_error(monkeypatch):
    """There is no fallback to a slower device."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        backends, "op_unavailable_reason", lambda op, device: f"{op} on {device.type}: not built" if op == "ldcn" else None
    )
    for name in ("cuda", None):
        with pytest.raises(DkicError, match="^ldcn on cuda: not built; or train with --device cpu$"):
            device_for(name)
