"""The LDCN block in integers: see dkic.entropy.exact_network."""

import torch
from torch import Tensor, nn

from dkic.entropy.exact_network import ACTIVATION_MAX, ExactConv2d, Step, check_multiplier
from dkic.errors import DkicError
from dkic.models.ldcn_block import LDCNBlock, plus_branch
from dkic.ops import ldcn
from dkic.ops.requantize import requantize, round_ste

OFFSET_STEPS, OFFSET_MAX = 8, 64  # offsets are multiples of 1/8 px, to 8 px
MASK_STEPS = 64  # a mask of 1
_LOGIT_STEPS, _LOGIT_MAX = 16, 127  # the mask's logits are multiples of 1/16, to 7.9


class ExactLDCNBlock(LDCNBlock):
    """An LDCN block with sigmoid masks and a skip; on integers of the grid `step` in its exact state.

    In that state an offset is a whole number of eighths of a pixel, and a mask one of 64ths, from a table. So a bilinear weight
    is a whole number of 64ths, and a sum over 9 taps one of at most 9 * 64 * 64 * 255 < 2^24 of them: `ldcn` is exact as it is.
    """

    exact = False

    def __init__(self, channels: int, groups: int, step: Step) -> None:
        self._step = (step,)  # in a tuple: it is another module's part
        super().__init__(channels, groups, mask="sigmoid", relu=False)
        self.frozen = False

    def _convolutions(self, channels: int) -> tuple[nn.Conv2d, nn.Conv2d, nn.Conv2d, nn.Conv2d]:
        (step,) = self._step
        self.value_step, self.depthwise_step, self.aggregate_step = (Step(channels) for _ in range(3))
        self.control_step = Step(self.taps * 3, [1 / OFFSET_STEPS] * (2 * self.taps) + [1 / _LOGIT_STEPS] * self.taps)
        value = ExactConv2d(channels, channels, 1, inputs=[step], outputs=self.value_step)
        depthwise = ExactConv2d(channels, channels, 3, 1, 1, inputs=[step], outputs=self.depthwise_step, groups=channels)
        control = ExactConv2d(
            channels, self.taps * 3, 1, inputs=[self.depthwise_step], outputs=self.control_step, bound=_LOGIT_MAX
        )
        return value, depthwise, control, ExactConv2d(channels, channels, 1, inputs=[self.aggregate_step], outputs=step)

    def integers(self) -> dict[str, Tensor]:
        """What it holds beside its layers once it is frozen: the masks of all logits, and a multiplier."""
        logits = torch.arange(-_LOGIT_MAX, _LOGIT_MAX + 1, dtype=torch.float32, device=self.value_step.size.device)
        return {"mask_table": _mask_of(logits), "aggregate_multiplier": self._aggregate_multiplier()}

    def take(self, frozen: "ExactLDCNBlock") -> None:
        """See `dkic.entropy.exact_network.thaw`."""
        multiplier = frozen.aggregate_multiplier.clamp_min(1e-12)
        self.aggregate_step.size.copy_(self.value_step.size / (multiplier * (MASK_STEPS * OFFSET_STEPS**2)))

    def room(self) -> dict[str, Tensor]:
        table = torch.empty(2 * _LOGIT_MAX + 1, dtype=torch.uint8, device="meta")
        return {"mask_table": table, "aggregate_multiplier": torch.empty(1, dtype=torch.float32, device="meta")}

    def check(self) -> None:
        check_multiplier(self.aggregate_multiplier)
        if self.mask_table.max() > MASK_STEPS:
            raise DkicError(f"a mask is beyond {MASK_STEPS}")

    def forward(self, x: Tensor) -> Tensor:
        """x `[N, channels, H, W]`: real numbers, or in the exact state integers; the result likewise."""
        if not self.exact:
            total = self.aggregate(x)
            self.aggregate_step.observe(total)
            y = plus_branch(x, self.project(total))
            self._step[0].observe(y)
            return y
        value, control = self.value(x), self.offset_mask(self.depthwise(x))
        offset, logits = control[:, : self.taps * 2], control[:, self.taps * 2 :]
        offset = offset.clamp(-OFFSET_MAX, OFFSET_MAX) / OFFSET_STEPS
        mask = self.mask_table[(logits + _LOGIT_MAX).long()].to(x.dtype) if self.frozen else _mask_of(logits)
        multiplier = self.aggregate_multiplier if self.frozen else self._aggregate_multiplier()
        with torch.autocast(x.device.type, enabled=False):  # a half type would round the sums
            total = ldcn(value, offset, mask, kernel_size=self.kernel_size, padding=self.kernel_size // 2) * OFFSET_STEPS**2
        y = requantize(total, None, multiplier, -ACTIVATION_MAX, ACTIVATION_MAX).to(x.dtype)
        return (x + self.project(y)).clamp(-ACTIVATION_MAX, ACTIVATION_MAX)

    def _aggregate_multiplier(self) -> Tensor:
        return self.value_step.size / (self.aggregate_step.size * (MASK_STEPS * OFFSET_STEPS**2))


def _mask_of(logits: Tensor) -> Tensor:
    """The mask's integers `0 ... 64`, float32."""
    return round_ste((logits / _LOGIT_STEPS).sigmoid() * MASK_STEPS)
