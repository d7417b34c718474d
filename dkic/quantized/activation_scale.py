"""Scales of activation tensors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dkic.nn.constant_buffers import ConstantBuffers, keeping_dtype

if TYPE_CHECKING:
    from typing_extensions import Self

ACTIVATION_MAX = 255
# Margin over the largest value in calibration. Clamped values degrade the prediction much, a coarser scale little: 1.5 raises
# the bits of y by 0.23 % (11 photographs) and 2.1 % (an atypical image), 1.0 by 0.09 % and 3.2 %.
_HEADROOM = 1.5


class ActivationScale(ConstantBuffers):
    """Symmetric quantization scale of an activation tensor.

    Args:
        channels: channels of the activation tensor.
        scale: a scale fixed by the architecture: a number, or `[channels]` of them. None: calibrated, so that 255 units are
            1.5 times the largest value seen.
        per_channel: calibrate one scale for each channel.
    """

    scale: Tensor

    def __init__(self, channels: int, scale: float | Sequence[float] | None = None, per_channel: bool = False) -> None:
        super().__init__()
        self.channels, self.given = channels, scale is not None
        # A given scale is not saved. float32 whatever torch's default dtype is, since the integers are computed from it.
        if scale is not None:
            self.hold_constant("scale", torch.tensor(scale, dtype=torch.float32, device="cpu").reshape(-1))
        else:
            self.register_buffer("scale", torch.zeros(channels if per_channel else 1, dtype=torch.float32))
        self._peaks: list[Tensor] | None = None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Self":
        return super()._apply(keeping_dtype(fn), recurse)

    def start_recording(self) -> None:
        """Makes `observe` record the largest values."""
        self._peaks = []

    def stop_recording(self) -> None:
        """Ends recording; discards the recorded values."""
        self._peaks = None

    def observe(self, t: Tensor) -> None:
        """Records the largest values of t `[N, channels, ...]`, real numbers; does nothing outside calibration."""
        if self._peaks is not None and not self.given:
            peaks = t.detach().abs().transpose(0, 1).flatten(1).amax(1)
            self._peaks.append(peaks if len(self.scale) > 1 else peaks.amax(0, keepdim=True))

    def set_from_recorded(self) -> None:
        """Ends recording; sets the scale if anything was recorded."""
        if self._peaks and not self.given:
            self.scale = _HEADROOM * torch.stack(self._peaks).amax(0).clamp_min(1e-3) / ACTIVATION_MAX
        self.stop_recording()

    @property
    def vector(self) -> Tensor:
        """The scale of each channel, `[channels]`."""
        return self.scale.expand(self.channels)

    def forget(self) -> None:
        """Deletes the scale. A converted network does not need it: the multipliers contain it."""
        del self.scale


@dataclass(frozen=True)
class UsedScales:
    """The scales that a layer uses and other modules own.

    `nn.Module` does not register what a dataclass holds, so a state dict contains each scale once, under its owner.

    inputs: of the input, in the order of its channels. output: of the result.
    """

    inputs: tuple[ActivationScale, ...]
    output: ActivationScale

    @property
    def input_vector(self) -> Tensor:
        """The scale of each channel of the input, `[channels]`."""
        return torch.cat([scale.vector for scale in self.inputs])
