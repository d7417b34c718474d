"""Buffers that follow a module's device, keep their dtype and contents, and are not saved."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from typing_extensions import Self


def keeping_dtype(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A function for `nn.Module._apply` that moves a tensor as `fn` does, but not to another dtype."""

    def moved(t: Tensor) -> Tensor:
        result = fn(t)
        return result if result.dtype == t.dtype else t.to(result.device)

    return moved


class ConstantBuffers(nn.Module):
    """A module with constants. They are there after `to_empty()` and on a device to which `load_state_dict(assign=True)` moved
    the parameters, and `half()` or `double()` do not round them.
    """

    _constants: dict[str, Tensor]  # on the CPU

    def hold_constant(self, name: str, values: Tensor, device: torch.device | None = None) -> None:
        """Registers a constant as a buffer.

        Args:
            values: a tensor on the CPU.
            device: of the buffer; None: the default device.
        """
        self.__dict__.setdefault("_constants", {})[name] = values
        self._place(name, device or torch.get_default_device())

    def constant(self, name: str, device: torch.device) -> Tensor:
        """The constant on the device, where its buffer then is."""
        if self.get_buffer(name).device != device:
            self._place(name, device)
        return self.get_buffer(name)

    def _place(self, name: str, device: torch.device) -> None:
        with torch.inference_mode(False):  # an inference tensor could not be saved for a gradient
            self.register_buffer(name, self._constants[name].to(device, copy=True), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Self":
        constants = [name for name in self.__dict__.get("_constants", {}) if name in self._buffers]
        devices = {name: self.get_buffer(name).device for name in constants}
        for name in constants:
            del self._buffers[name]
        super()._apply(fn, recurse)
        for name, device in devices.items():
            # Nothing can be copied from the meta device, and to_empty() leaves it.
            self._place(name, fn(torch.empty(0, device="cpu" if device.type == "meta" else device)).device)
        return self
