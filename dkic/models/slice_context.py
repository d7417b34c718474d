"""Asymmetric space-channel context: mean and scale of the latent, slice after slice, pass after pass.

The channels of the latent are divided into slices. Each slice depends on the initial features and all earlier slices. Within a
slice, each pass depends on the earlier passes through a 5x5 convolution. The first slices are thin and have more passes, since
they carry most of the energy; the last is wide and has one. Positions are grouped into the four cells of a 2x2 grid. The number
of the pass that codes each position:

    4 passes    2 passes    1 pass
     0 2 0 2     0 1 0 1     0 0 0 0
     3 1 3 1     1 0 1 0     0 0 0 0
     0 2 0 2     0 1 0 1     0 0 0 0
     3 1 3 1     1 0 1 0     0 0 0 0

Training, encoding and decoding use one traversal, `SliceContext.coding_passes`. Once quantized (see dkic.quantized), all values
from the features to means and indexes are integers; means are multiples of 1/64.
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dkic.entropy.quantization import MEAN_STEPS, SCALE_INDEX_MAX
from dkic.models.config import SliceSpec
from dkic.quantized import ACTIVATION_MAX, ActivationScale, LatentInput, QuantizedConv2d, QuantizedLayer

Cells = tuple[tuple[int, int], ...]
PASSES: dict[int, tuple[Cells, ...]] = {
    1: (((0, 0), (0, 1), (1, 0), (1, 1)),),
    2: (((0, 0), (1, 1)), ((0, 1), (1, 0))),
    4: (((0, 0),), ((1, 1),), ((0, 1),), ((1, 0),)),
}

# A scale is an index into a table of log-spaced scales. The network predicts the index, before rounding, as INDEX_STEP * output
# + INDEX_START: 8 indexes are a factor of 2.7 in scale; index 24 is a scale of 2.1.
INDEX_STEP, INDEX_START = 8.0, 24.0
_OUTPUT_MAX = 2**15  # bound of the quantized results; means are below 512


@dataclass
class Pass:
    """A pass of the traversal of a latent.

    Attributes:
        channels: the channels of its slice.
        cells: the cells (row, column) of the 2x2 grid that it codes.
        mean, scale_index: `[N, channels, cells * h/2, w/2]`, see `take_cells`.
        y_hat: of that shape; set it before the next pass.
    """

    channels: slice
    cells: Cells
    mean: Tensor
    scale_index: Tensor
    y_hat: Tensor | None = None


def take_cells(t: Tensor, cells: Cells) -> Tensor:
    """`[N, C, h, w]` -> `[N, C, len(cells) * h/2, w/2]`: the positions of these cells, one cell below the other."""
    return torch.cat([t[..., i::2, j::2] for i, j in cells], dim=2)


def join_cells(parts: dict[tuple[int, int], Tensor]) -> Tensor:
    """The inverse of `take_cells`: the four cells `[N, C, h/2, w/2]` -> `[N, C, h, w]`."""
    return F.pixel_shuffle(torch.stack([parts[i, j] for i in (0, 1) for j in (0, 1)], dim=2).flatten(1, 2), 2)


class PassContext(QuantizedLayer):
    """Mean and scale index of one pass of a slice.

    Args:
        spec: spec of the slice.
        width: channels of the slice's features.
        first: whether it is the first pass of the slice.
        latent: scale of y_hat.
        inputs: scale of the sum of the slice's features and the convolution of earlier passes.
    """

    def __init__(self, spec: SliceSpec, width: int, first: bool, latent: ActivationScale, inputs: ActivationScale) -> None:
        super().__init__()
        self.inputs = inputs
        self.spatial = None if first else QuantizedConv2d(spec.channels, width, 5, 2, inputs=[latent], outputs=inputs)
        self.hidden = ActivationScale(width)
        self.results = ActivationScale(spec.channels * 2, [1 / MEAN_STEPS] * spec.channels + [1 / INDEX_STEP] * spec.channels)
        self.parameters_of = nn.Sequential(
            nn.ReLU(),
            QuantizedConv2d(width, width, 1, inputs=[inputs], outputs=self.hidden, relu=True),
            nn.Identity(),  # as in HyperSynthesis
            QuantizedConv2d(width, spec.channels * 2, 1, inputs=[self.hidden], outputs=self.results, bound=_OUTPUT_MAX),
        )

    def forward(self, cells: Cells, features: Tensor, known: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean and scale index at these cells, `[N, channels, cells * h/2, w/2]` each.

        features: of the slice, `[N, width, h, w]`. known: y_hat of the slice's channels `[N, channels, h, w]`, 0 where it is not
        coded yet; None in the first pass.
        """
        t = take_cells(features, cells)
        if self.spatial is not None:
            # With stride 2 from the cell's corner, the convolution is computed only at the positions of this cell.
            assert known is not None
            padded = F.pad(known, (2, 2, 2, 2))
            h, w = features.shape[-2:]
            t = t + torch.cat([self.spatial(padded[..., i : i + h + 3, j : j + w + 3]) for i, j in cells], dim=2)
        if self.is_float:
            self.inputs.observe(t)
            mean, index = self.parameters_of(t).chunk(2, dim=1)
            return mean, index * INDEX_STEP + INDEX_START
        mean, index = self.parameters_of(t.clamp(-ACTIVATION_MAX, ACTIVATION_MAX)).chunk(2, dim=1)
        return mean / MEAN_STEPS, (index + INDEX_START).clamp(0, SCALE_INDEX_MAX)


class ContextConfig(Protocol):
    """The part of a model config that `SliceContext` reads."""

    @property
    def slices(self) -> tuple[SliceSpec, ...]: ...
    @property
    def hyper_features(self) -> int: ...
    @property
    def context_channels(self) -> int: ...


class SliceContext(nn.Module):
    """The context of all slices; see the documentation of this module.

    Args:
        config: model config.
        features: scale of the initial features; None: 1.
    """

    def __init__(self, config: ContextConfig, features: ActivationScale | None = None) -> None:
        super().__init__()
        self.specs: tuple[SliceSpec, ...] = config.slices
        self.latent_channels = sum(spec.channels for spec in self.specs)
        self.features, self.passes = nn.ModuleList(), nn.ModuleList()
        # "entries": the latent inputs. Weights files and checkpoints contain the name.
        self.entries, self.hidden_scales = nn.ModuleList(), nn.ModuleList()
        before, width = config.hyper_features, config.context_channels
        inputs: list[ActivationScale] = [features or ActivationScale(config.hyper_features, 1.0)]
        for spec in self.specs:
            latent_input, hidden, own = LatentInput(spec.channels, MEAN_STEPS), ActivationScale(width), ActivationScale(width)
            self.features.append(
                nn.Sequential(
                    QuantizedConv2d(before, width, 1, inputs=inputs, outputs=hidden, relu=True),
                    nn.Identity(),  # as in HyperSynthesis
                    QuantizedConv2d(width, width, 3, 1, 1, inputs=[hidden], outputs=own),
                )
            )
            self.passes.append(
                nn.ModuleList(PassContext(spec, width, p == 0, latent_input.scale, own) for p in range(spec.passes))
            )
            self.entries.append(latent_input)
            self.hidden_scales.append(hidden)
            inputs = [*inputs, latent_input.scale]
            before += spec.channels

    def coding_passes(self, features: Tensor) -> "CodingPasses":
        """The passes over a latent `[N, M, h, w]`, in coding order; features: initial features `[N, F, h, w]`, h and w even.

        ```python
        passes = context.coding_passes(features)
        for part in passes:
            part.y_hat = ...  # from part.mean and part.scale_index
        passes.y_hat
        ```
        """
        return CodingPasses(self, features)


class CodingPasses:
    """Iterable of `Pass`es; see `SliceContext.coding_passes`. After the last pass, y_hat is the latent `[N, M, h, w]`."""

    y_hat: Tensor

    def __init__(self, context: SliceContext, features: Tensor) -> None:
        self._context, self._features = context, features

    def __iter__(self) -> Iterator[Pass]:
        context, start = self._context, 0
        slices: list[Tensor] = []
        seen = _Seen(self._features, context.latent_channels - context.specs[-1].channels)
        for number, spec in enumerate(context.specs):
            channels = slice(start, start + spec.channels)
            start += spec.channels
            latent_input = cast(LatentInput, context.entries[number])
            slices.append((yield from self._passes(number, channels, context.features[number](seen.all()))))
            if start < context.latent_channels:
                seen.add(latent_input(slices[-1]))
            else:
                latent_input.scale.observe(slices[-1])
        self.y_hat = torch.cat(slices, dim=1)

    def _passes(self, number: int, channels: slice, features: Tensor) -> Generator[Pass, None, Tensor]:
        """Yields the passes of one slice; returns its y_hat."""
        n, _, h, w = features.shape
        spec, latent_input = self._context.specs[number], self._context.entries[number]
        unknown = features.new_zeros((n, spec.channels, h // 2, w // 2))
        parts = {(i, j): unknown for i in (0, 1) for j in (0, 1)}
        for cells, context in zip(PASSES[spec.passes], cast(nn.ModuleList, self._context.passes[number]), strict=True):
            known = None if context.spatial is None else latent_input(join_cells(parts))
            part = Pass(channels, cells, *context(cells, features, known))
            del known
            yield part
            if part.y_hat is None:
                raise RuntimeError("SliceContext.coding_passes: y_hat of a pass is not set; set it before the next pass")
            parts.update(zip(cells, part.y_hat.chunk(len(cells), dim=2), strict=True))
        return join_cells(parts)


class _Seen:
    """The input of the slices' feature networks: the initial features and the activations of the slices coded so far.

    Without gradients it is one buffer for all slices, allocated once: concatenating for every slice, each time in another size,
    fragments memory (0.4 GB of 3.9 GB for an image of 8192x8192).

    Args:
        first: initial features `[N, F, h, w]`.
        more: number of channels that will be added.
    """

    def __init__(self, first: Tensor, more: int) -> None:
        self._parts: list[Tensor] = []
        self._room: Tensor | None = None
        if torch.is_grad_enabled():
            self._parts.append(first)
        else:
            n, c, h, w = first.shape
            self._room = first.new_empty((n, h, w, c + more)).permute(0, 3, 1, 2)
            self._room[:, :c] = first
            self._channels = c

    def add(self, part: Tensor) -> None:
        if self._room is None:
            self._parts.append(part)
        else:
            self._room[:, self._channels : self._channels + part.shape[1]] = part
            self._channels += part.shape[1]

    def all(self) -> Tensor:
        """`[N, channels so far, h, w]`."""
        return torch.cat(self._parts, dim=1) if self._room is None else self._room[:, : self._channels]
