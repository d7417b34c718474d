"""The asymmetric space-channel context: mean and scale of the latent, slice after slice, pass after pass.

The latent's channels are cut into slices. A slice sees the hyper-prior's features and every slice before it; within a slice,
a pass sees the passes before it through a 5x5 convolution. First slices are thin and take more passes, since they carry
most of the energy; the last is wide and takes one. Positions are handled as the four cells of a 2x2 grid:

    pass 0 of 4: cell (0,0)    1: (1,1)    2: (0,1)    3: (1,0)         pass 0 of 2: (0,0) (1,1)    1: (0,1) (1,0)

One traversal, `SliceContext.forward`, serves training, encoding and decoding: what becomes of a mean and a scale is up to the
`visit` it is given. Quantized (see dkic.quantized), all between the features and a mean and an index is integers, means are
multiples of 1/64 and indexes whole.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dkic.entropy.quantization import MEAN_STEPS, SCALE_INDEX_MAX
from dkic.models.config import ModelConfig, SliceSpec
from dkic.quantized import ACTIVATION_MAX, ActivationScale, LatentInput, QuantizedConv2d, QuantizedLayer

Cells = tuple[tuple[int, int], ...]
PASSES: dict[int, tuple[Cells, ...]] = {
    1: (((0, 0), (0, 1), (1, 0), (1, 1)),),
    2: (((0, 0), (1, 1)), ((0, 1), (1, 0))),
    4: (((0, 0),), ((1, 1),), ((0, 1),), ((1, 0),)),
}
# visit(channels of the slice, cells of the pass, mean, scale_index) -> y_hat there; tensors are [N, channels, cells * h/2, w/2].
Visit = Callable[[slice, Cells, Tensor, Tensor], Tensor]

# A scale is coded as an index into a table of log-spaced scales. The network gives the index itself, before rounding.
# From a unit output: 8 indexes are a factor of 2.7 in scale; 24 is a scale of 2.1.
INDEX_STEP, INDEX_START = 8.0, 24.0
_OUTPUT_MAX = 2**15  # of the quantized results: means to 512


def take_cells(t: Tensor, cells: Cells) -> Tensor:
    """`[N, C, h, w]` -> `[N, C, len(cells) * h/2, w/2]`: the pixels of these cells, one cell below the other."""
    return torch.cat([t[..., i::2, j::2] for i, j in cells], dim=2)


def join_cells(parts: dict[tuple[int, int], Tensor]) -> Tensor:
    """The inverse: the four cells `[N, C, h/2, w/2]` -> `[N, C, h, w]`."""
    return F.pixel_shuffle(torch.stack([parts[i, j] for i in (0, 1) for j in (0, 1)], dim=2).flatten(1, 2), 2)


class PassContext(QuantizedLayer):
    """What one pass of a slice knows of the passes before it, and its mean and scale index.

    latent: the scale of y_hat; features: that of the slice's features.
    """

    def __init__(
        self, spec: SliceSpec, width: int, first: bool, latent: ActivationScale, features: ActivationScale
    ) -> None:
        super().__init__()
        self.spatial = None if first else QuantizedConv2d(spec.channels, width, 5, 2, inputs=[latent], outputs=features)
        self.hidden = ActivationScale(width)
        self.results = ActivationScale(spec.channels * 2, [1 / MEAN_STEPS] * spec.channels + [1 / INDEX_STEP] * spec.channels)
        self.parameters_of = nn.Sequential(
            nn.ReLU(),
            QuantizedConv2d(width, width, 1, inputs=[features], outputs=self.hidden, relu=True),
            nn.Identity(),  # as in HyperSynthesis
            QuantizedConv2d(width, spec.channels * 2, 1, inputs=[self.hidden], outputs=self.results, bound=_OUTPUT_MAX),
        )
        self.features = (features,)  # in a tuple: it is the slice's part

    def forward(self, features: Tensor, known: Tensor | None, cells: Cells) -> tuple[Tensor, Tensor]:
        t = take_cells(features, cells)
        if self.spatial is not None and known is not None:
            # A stride of 2 from the cell's corner gives the convolution at this cell's pixels alone.
            padded = F.pad(known, (2, 2, 2, 2))
            h, w = known.shape[-2:]
            t = t + torch.cat([self.spatial(padded[..., i : i + h + 3, j : j + w + 3]) for i, j in cells], dim=2)
        if self.is_float:
            self.features[0].observe(t)
            mean, index = self.parameters_of(t).chunk(2, dim=1)
            return mean, index * INDEX_STEP + INDEX_START
        mean, index = self.parameters_of(t.clamp(-ACTIVATION_MAX, ACTIVATION_MAX)).chunk(2, dim=1)
        return mean / MEAN_STEPS, (index + INDEX_START).clamp(0, SCALE_INDEX_MAX)


class SliceContext(nn.Module):
    """Walks through the latent in coding order; see the module's text.

    features: the scale of the features that it is given.
    """

    def __init__(self, config: ModelConfig, features: ActivationScale | None = None) -> None:
        super().__init__()
        self.specs, self.latent_channels = config.slices, config.latent_channels
        self.features, self.passes = nn.ModuleList(), nn.ModuleList()
        self.entries, self.grids = nn.ModuleList(), nn.ModuleList()
        before, width = 0, config.context_channels
        inputs: list[ActivationScale] = [features or ActivationScale(config.hyper_features, 1.0)]
        for spec in config.slices:
            entry, hidden, own = LatentInput(spec.channels, MEAN_STEPS), ActivationScale(width), ActivationScale(width)
            self.features.append(
                nn.Sequential(
                    QuantizedConv2d(config.hyper_features + before, width, 1, inputs=inputs, outputs=hidden, relu=True),
                    nn.Identity(),  # as in HyperSynthesis
                    QuantizedConv2d(width, width, 3, 1, 1, inputs=[hidden], outputs=own),
                )
            )
            self.passes.append(nn.ModuleList(PassContext(spec, width, p == 0, entry.scale, own) for p in range(spec.passes)))
            self.entries.append(entry)
            self.grids.extend([hidden, own])
            inputs = [*inputs, entry.scale]
            before += spec.channels

    def forward(self, hyper: Tensor, visit: Visit) -> Tensor:
        """hyper: features of the hyper-synthesis `[N, F, h, w]`, h and w even. Returns y_hat `[N, M, h, w]`."""
        done: list[Tensor] = []
        start = 0
        n, _, h, w = hyper.shape
        seen = _Seen(hyper, self.latent_channels - self.specs[-1].channels)
        for spec, features_of, passes, entry in zip(self.specs, self.features, self.passes, self.entries, strict=True):
            channels = slice(start, start + spec.channels)
            start += spec.channels
            features = features_of(seen.all())
            unknown = hyper.new_zeros((n, spec.channels, h // 2, w // 2))
            parts = {(i, j): unknown for i in (0, 1) for j in (0, 1)}
            for cells, context in zip(PASSES[spec.passes], passes, strict=True):
                known = entry(join_cells(parts)) if context.spatial is not None else None
                mean, scale_index = context(features, known, cells)
                y_hat = visit(channels, cells, mean, scale_index)
                parts.update(zip(cells, y_hat.chunk(len(cells), dim=2), strict=True))
            done.append(join_cells(parts))
            if start < self.latent_channels:
                seen.add(entry(done[-1]))
            else:
                entry.scale.observe(done[-1])
            del features, parts, unknown, known, y_hat, mean, scale_index  # not beside those of the next slice
        return torch.cat(done, dim=1)


class _Seen:
    """What a slice's features are made of: hyper, and the slices done as they enter the network.

    Without gradients all of it has its place from the start: put together anew for every slice, in another size each time, it
    left gaps in memory that nothing fitted into, 0.4 GB of 3.9 for a picture of 8192x8192.
    """

    def __init__(self, hyper: Tensor, more: int) -> None:
        self._parts: list[Tensor] = []
        self._room: Tensor | None = None
        if torch.is_grad_enabled():
            self._parts.append(hyper)
        else:
            n, c, h, w = hyper.shape
            self._room = hyper.new_empty((n, h, w, c + more)).permute(0, 3, 1, 2)
            self._room[:, :c] = hyper
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
