"""Layers that give the same integers on every machine: what decides how bits are read must not depend on how a sum was rounded.

Weights and activations are integers, carried by ordinary float tensors: |weight| <= 127, |activation| <= 255, so that half types
and TF32 hold them exactly too. A convolution's sums stay below 2^24, which is proved of each filter when a network is frozen (one
over that is cut by its input channels, and its parts are added as int32). So every order of summation gives the same number, even
one that errs by less than 1/2, since it is rounded. Then comes the integer bias, one float32 multiplication rounded half to even,
and a clamp. Nothing here takes a logarithm or divides.

A layer has three states:

    float    as it is built: an ordinary convolution of real numbers
    exact    integers, from weights that can still be trained (roundings pass gradients straight through); see `set_exact`
    frozen   integers alone, as a weights file has them; see `freeze`, and `thaw` for the way back
"""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dkic.entropy.quantization import MEAN_STEPS
from dkic.errors import DkicError
from dkic.ops import exact_conv2d
from dkic.ops.requantize import requantize, round_ste

WEIGHT_MAX = 127
ACTIVATION_MAX = 255
SUM_BOUND = 2**24  # float32 holds every integer below
# Of the largest number seen, in 16 batches of crops, where a network is exported. What is beyond a grid's end is clamped, and
# mispredicts much; a coarser grid costs little. More bits than as a float network, of tiny's second level before it is trained as
# integers, on 11 photographs, on the one that ships, and on 128x128 pixels of it that are unlike others: by the mean batch's
# largest number 0.34 %, 2.7 % and 22 %; by that of all batches 0.09 %, -0.2 % and 3.2 %; by 1.5 times it 0.23 %, 0.18 % and
# 2.1 %; by 3 times it 1.2 %, 1.0 % and 0.15 %.
_HEADROOM = 1.5
_BLOCK_BYTES = 4 * 2**20  # of a convolution's unfolded input at once


class Step(nn.Module):
    """A grid: the distance of neighbouring numbers of a tensor, of which the exact network knows the multiples' numbers alone.

    Args:
        channels: of the tensor.
        size: the distance, or `[channels]` of them, where it is given. Otherwise it is measured (`watch`, `settle`) such that 255
            of it span the tensor's numbers, and half as much again.
        each: every channel has a grid of its own.
    """

    size: Tensor

    def __init__(self, channels: int, size: float | Sequence[float] | None = None, each: bool = False) -> None:
        super().__init__()
        self.channels, self.given = channels, size is not None
        # A size that is given belongs to the architecture, and not into a file.
        # float32 whatever torch's default is: the network's integers follow from it.
        start = torch.tensor([0.0] * (channels if each else 1) if size is None else size, dtype=torch.float32).reshape(-1)
        self.register_buffer("size", start, persistent=not self.given)
        self._peaks: list[Tensor] | None = None

    def watch(self) -> None:
        """From now on remembers the largest numbers that `observe` is shown."""
        self._peaks = []

    def observe(self, t: Tensor) -> None:
        """t `[N, channels, ...]`, real."""
        if self._peaks is not None and not self.given:
            peaks = t.detach().abs().transpose(0, 1).flatten(1).amax(1)
            self._peaks.append(peaks if len(self.size) > 1 else peaks.amax(0, keepdim=True))

    def settle(self) -> None:
        """Takes the size from the largest number that was observed, and some more."""
        if self._peaks and not self.given:
            self.size = _HEADROOM * torch.stack(self._peaks).amax(0).clamp_min(1e-3) / ACTIVATION_MAX
        self._peaks = None

    @property
    def vector(self) -> Tensor:
        """`[channels]`."""
        return self.size.expand(self.channels)

    def forget(self) -> None:
        """In a frozen network the multipliers hold what was needed of it."""
        del self.size


class Entry(Step):
    """Where multiples of 1/64, means and what is made of them, enter an exact network: each channel's own grid."""

    exact = False
    multiplier: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__(channels, each=True)
        self.frozen = False

    def forward(self, y_hat: Tensor) -> Tensor:
        """y_hat `[N, channels, h, w]` as it is in the float state, else the integers nearest to it."""
        if not self.exact:
            self.observe(y_hat)
            return y_hat
        multiplier = self.multiplier if self.frozen else 1 / (self.size * MEAN_STEPS)
        q = requantize(y_hat * MEAN_STEPS, None, multiplier, -ACTIVATION_MAX, ACTIVATION_MAX)
        return q.to(y_hat.dtype)

    def integers(self) -> dict[str, Tensor]:
        return {"multiplier": 1 / (self.size * MEAN_STEPS)}

    def take(self, frozen: "Entry") -> None:
        """See `thaw`."""
        self.size.copy_(1 / (frozen.multiplier * MEAN_STEPS).clamp_min(1e-12))

    def room(self) -> dict[str, Tensor]:
        return {"multiplier": torch.empty(self.channels, dtype=torch.float32, device="meta")}

    def check(self) -> None:
        check_multiplier(self.multiplier)


def check_multiplier(multiplier: Tensor) -> None:
    """Raises DkicError where it is none."""
    if not (multiplier.isfinite().all() and (multiplier >= 0).all()):
        raise DkicError("a multiplier is not finite, or negative")


def convolution(a: Tensor, weight: Tensor, stride: int, padding: int, groups: int) -> Tensor:
    """Of integers, by products of matrices: no algorithm that transforms its input (Winograd, FFT) may err by 1/2 here.

    a `[N, C, H, W]`; weight `[out, C / groups, k, k]`, of a's type; groups: 1 or C. Returns `[N, out, Ho, Wo]`, channels_last.
    """
    out, _, k, _ = weight.shape
    a = F.pad(a, (padding,) * 4).contiguous(memory_format=torch.channels_last)
    windows = a.unfold(2, k, stride).unfold(3, k, stride).permute(0, 2, 3, 4, 5, 1)  # [N, Ho, Wo, k, k, C], a view
    n, height, width, _, _, c = windows.shape
    total = a.new_empty((n, height, width, out))
    matrix = weight.permute(2, 3, 1, 0).reshape(-1, out)  # [k k C / groups, out]
    rows = max(1, _BLOCK_BYTES // (width * k * k * c * a.element_size()))
    for i in range(n):
        for start in range(0, height, rows):
            block = windows[i, start : start + rows]
            if groups == 1:
                sums = block.reshape(-1, k * k * c) @ matrix
            else:
                sums = (block.reshape(-1, k * k, c) * matrix.view(k * k, c)).sum(1)
            total[i, start : start + rows] = sums.view(-1, width, out)
    return total.permute(0, 3, 1, 2)


class ExactConv2d(nn.Conv2d):
    """A convolution of one grid's integers onto another's.

    Args:
        inputs: the grids of the input, one after the other along its channels.
        outputs: the grid of the result.
        bound: the result is clamped to -bound ... bound.
        relu: and to 0 ... bound then, in the float state too.
        groups: 1, or the number of channels.
    """

    exact = False
    multiplier: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        *,
        inputs: Iterable[Step],
        outputs: Step,
        bound: int = ACTIVATION_MAX,
        relu: bool = False,
        groups: int = 1,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, groups=groups)
        self.grids = tuple(inputs), outputs  # in a tuple: they are other modules' parts
        self.low, self.high = (0 if relu else -bound), bound
        self.frozen = False
        self._parts: list[tuple[slice, Tensor]] | None = None
        self._packed: Tensor | None = None

    def integers(self) -> dict[str, Tensor]:
        """weight `[out, in / groups, k, k]` and bias `[out]`, integers, and the multiplier `[out]`: float32, differentiable."""
        inputs, outputs = self.grids
        steps = torch.cat([step.vector for step in inputs])
        weight = self.weight * (steps.view(1, -1, 1, 1) if self.groups == 1 else steps.view(-1, 1, 1, 1))
        # The second is for a layer that begins from zero: its bias must stay far below 2^24 too.
        step = torch.maximum(weight.detach().abs().amax((1, 2, 3)) / WEIGHT_MAX, self.bias.detach().abs() * 2.0**-22)
        step = step.clamp_min(1e-12)
        return {
            "weight": round_ste(weight / step.view(-1, 1, 1, 1)),
            "bias": round_ste(self.bias / step),
            "multiplier": step / outputs.size,
        }

    def take(self, frozen: "ExactConv2d") -> None:
        """See `thaw`."""
        inputs, outputs = self.grids
        steps = torch.cat([step.vector for step in inputs])
        step = frozen.multiplier * outputs.size
        weight = frozen.weight * step.view(-1, 1, 1, 1)
        self.weight.copy_(weight / (steps.view(1, -1, 1, 1) if self.groups == 1 else steps.view(-1, 1, 1, 1)))
        self.bias.copy_(frozen.bias * step)

    def room(self) -> dict[str, Tensor]:
        shape = (self.out_channels, self.in_channels // self.groups, *self.kernel_size)
        return {
            "weight": torch.empty(shape, dtype=torch.int8, device="meta"),
            "bias": torch.empty(self.out_channels, dtype=torch.int32, device="meta"),
            "multiplier": torch.empty(self.out_channels, dtype=torch.float32, device="meta"),
        }

    def check(self) -> None:
        check_multiplier(self.multiplier)
        if self.weight.eq(-WEIGHT_MAX - 1).any():
            raise DkicError(f"a weight is beyond {WEIGHT_MAX}")
        most = ACTIVATION_MAX * _largest_filter(self.weight) + _largest(self.bias)
        if most >= 2**31:
            raise DkicError(f"sums could reach {most}, and 2^31 is the bound")
        self._parts = self._packed = None
        self.parts()

    def parts(self) -> list[tuple[slice, Tensor]]:
        """The weight, float32, by input channels: as few parts as keep each one's sums, and the bias, below 2^24."""
        if self._parts is None or self._parts[0][1].device != self.weight.device:
            channels, bias = self.weight.shape[1], _largest(self.bias)
            for count in range(1, channels + 1):
                ends = [channels * i // count for i in range(count + 1)]
                slices = [slice(*pair) for pair in zip(ends, ends[1:], strict=False)]
                most = max(ACTIVATION_MAX * _largest_filter(self.weight[:, part]) for part in slices)
                # Of several parts the bias is added to the int32 sum.
                if most + (bias if count == 1 else 0) < SUM_BOUND:
                    break
            else:
                raise DkicError(f"a filter's sums could reach {most} with a bias of {bias}, and 2^24 is the bound")
            # In memory as `convolution` multiplies with them, so that it need not copy them every time.
            laid_out = self.weight.float().permute(2, 3, 1, 0)
            self._parts = [(part, laid_out[:, :, part].contiguous().permute(3, 2, 0, 1)) for part in slices]
        return self._parts

    def packed(self) -> Tensor:
        """The weight for the native code."""
        if self._packed is None:
            self._packed = exact_conv2d.packed(self.weight)
        return self._packed

    def forward(self, x: Tensor) -> Tensor:
        """x: real numbers in the float state, else integers; the result likewise."""
        if not self.exact:
            y = super().forward(x)
            y = y.relu() if self.low == 0 else y
            self.grids[1].observe(y)
            return y
        with torch.autocast(x.device.type, enabled=False):  # a half type would round the sums
            if self.frozen and self.groups == 1 and exact_conv2d.runs_on(x):
                geometry = self.stride[0], self.padding[0], self.low, self.high
                return exact_conv2d.exact_conv2d(x, self.packed(), self.bias, self.multiplier, *geometry)
            if self.frozen:
                return requantize(self._total(x), self.bias.float(), self.multiplier, self.low, self.high).to(x.dtype)
            now = self.integers()
            total = self._conv_forward(x.float(), now["weight"], None)
            return requantize(total, now["bias"], now["multiplier"], self.low, self.high)

    def _total(self, x: Tensor) -> Tensor:
        geometry = self.stride[0], self.padding[0], self.groups
        total, *more = (
            convolution(x if self.groups > 1 else x[:, part], weight.to(x.dtype), *geometry) for part, weight in self.parts()
        )
        return torch.stack([t.round().to(torch.int32) for t in (total, *more)]).sum(0, dtype=torch.int32) if more else total


def _largest_filter(weight: Tensor) -> int:
    """The largest sum of a filter's absolute weights."""
    return int(weight.long().abs().sum((1, 2, 3)).max())


def _largest(t: Tensor) -> int:
    return int(t.long().abs().max())


def set_exact(network: nn.Module, exact: bool = True) -> None:
    """Turns a network from its float state to the exact one, where its grids are known, or back."""
    for module in network.modules():
        if hasattr(type(module), "exact"):
            module.exact = exact


# All else is float32. The last three are tables of the quality.
_STORED = {"weight": torch.int8, "bias": torch.int32, "mask_table": torch.uint8} | dict.fromkeys(
    ("features", "sizes", "offsets"), torch.int16
)


@torch.no_grad()
def freeze(network: nn.Module) -> None:
    """From now on the network's exact layers hold integers alone. Raises DkicError, naming the layer, where a bound fails."""
    _hold(network, {m: m.integers() for m in _exact_layers(network).values()})
    check(network)


@torch.no_grad()
def thaw(frozen: nn.Module, network: nn.Module) -> None:
    """Gives a float network of the same shape the real numbers that a frozen one's integers stand for, and its grids.

    Where a grid only scales what passes through, any serves: 1/64, so that 255 steps of it are 4.
    """
    for module in network.modules():
        if isinstance(module, Step) and not module.given:
            module.size.fill_(1 / 64)
    pairs = list(zip(_exact_layers(network).values(), _exact_layers(frozen).values(), strict=True))
    for layer, other in sorted(pairs, key=lambda pair: isinstance(pair[0], ExactConv2d)):  # grids that are known come first
        layer.take(other)


def make_room(network: nn.Module) -> None:
    """The network as `freeze` leaves it, its integers on the meta device, for those of a file to be assigned; see `check`."""
    _hold(network, {m: m.room() for m in _exact_layers(network).values()})


def check(network: nn.Module) -> None:
    """Raises DkicError, naming the layer, where the integers of a frozen network break a bound."""
    for name, layer in _exact_layers(network).items():
        try:
            layer.check()
        except DkicError as error:
            raise DkicError(f"{name}: {error}") from None


def frozen_names(network: nn.Module) -> list[str]:
    """Names, in its state_dict, of the integers (and multipliers) that a frozen network holds; of any other network none."""
    return [f"{name}.{key}" for name, m in _exact_layers(network).items() if m.frozen for key in m.room()]


def _exact_layers(network: nn.Module) -> dict[str, nn.Module]:
    return {name: m for name, m in network.named_modules() if hasattr(m, "integers")}


def _hold(network: nn.Module, integers: dict[nn.Module, dict[str, Tensor]]) -> None:
    for module, tensors in integers.items():
        for name in [*tensors, *getattr(module, "replaced", ())]:
            if name in module._parameters:
                delattr(module, name)
        for name, t in tensors.items():
            module.register_buffer(name, t.detach().to(_STORED.get(name, torch.float32)).contiguous())
        module.frozen = True
    for module in network.modules():
        if isinstance(module, Step):
            module.forget()
    set_exact(network)
