"""A small model with quantized entropy networks, and the values that they compute."""

from dataclasses import replace

import torch
from torch import Tensor

from dkic.coding.container import crc32c
from dkic.models import DKIC, PRESETS, SliceSpec
from dkic.models.slice_context import take_cells
from dkic.quantized import calibrate, convert, prepare

CONFIG = replace(
    PRESETS["tiny"],
    widths=(4, 4, 4),
    groups=(1, 2, 2),
    bottlenecks=(0, 1, 0),
    slices=(SliceSpec(2, 4), SliceSpec(3, 2), SliceSpec(5, 1)),
    hyper_channels=8,
    hyper_groups=2,
    hyper_features=12,
    context_channels=16,
)
Decisions = list[tuple[Tensor, Tensor]]  # mean and scale index of every pass


def latents(n: int, seed: int = 0, side: int = 8) -> tuple[Tensor, Tensor]:
    """z_hat and y that an image of 16 side x 32 side could have; some of it far beyond what a scale spans."""
    generator = torch.Generator().manual_seed(seed)
    z_hat = (3 * torch.randn(n, CONFIG.hyper_channels, side // 4, side // 2, generator=generator)).round()
    y = 4 * torch.randn(n, CONFIG.latent_channels, side, 2 * side, generator=generator)
    z_hat[:, 0, 0, 0], y[:, 3, 2, 1], y[:, 1, 5, 5] = 5000, 3e5, -7e8
    return z_hat, y


def decisions(model: DKIC, z_hat: Tensor, y: Tensor) -> Decisions:
    """Means and scale indexes of all passes of an encoder."""
    seen: Decisions = []

    with torch.no_grad():
        for part in model.context.coding_passes(model.h_s(z_hat)):
            seen.append((part.mean, part.scale_index))
            part.y_hat = (take_cells(y[:, part.channels], part.cells) - part.mean).round() + part.mean
    return seen


def same(ours: Decisions, theirs: Decisions) -> bool:
    return len(ours) == len(theirs) > 3 and all(
        torch.equal(a.double(), b.double()) for pair in zip(ours, theirs, strict=True) for a, b in zip(*pair, strict=True)
    )


def checksum(seen: Decisions) -> int:
    """Of all of it, means counted in 64ths."""
    crc = 0
    for mean, index in seen:
        for t in (mean * 64, index):
            assert torch.equal(t, t.round())
            crc = crc32c(t.to(torch.int32).contiguous().numpy().tobytes(), crc)
    return crc


def calibrated(seed: int = 0) -> DKIC:
    """Random, in its float state."""
    torch.manual_seed(seed)
    model = DKIC(CONFIG).eval()
    for parameter in model.h_s[2].offset_mask.parameters():  # else offsets would be 0 everywhere
        torch.nn.init.normal_(parameter, std=0.5)
    z_hat, y = latents(2, seed + 1)
    with calibrate(model):
        decisions(model, z_hat.clamp(-30, 30), y.clamp(-30, 30))
    return model


def trainable(seed: int = 0) -> DKIC:
    """Random, in its prepared state."""
    model = calibrated(seed)
    prepare(model)
    return model


@torch.no_grad()
def real(seed: int = 0) -> DKIC:
    """In its float state, as training leaves one; its latents are as large as a trained model's."""
    torch.manual_seed(seed)
    model = DKIC(CONFIG).eval()
    for layer in (model.g_a[-1], model.h_a[-1]):
        layer.weight.mul_(40)
    return model.requires_grad_(False)


def converted(seed: int = 0) -> DKIC:
    model = trainable(seed)
    convert(model)
    return model.requires_grad_(False)
