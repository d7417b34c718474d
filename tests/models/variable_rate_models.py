"""A small variable-rate network."""

import torch

from dkic.models import SliceSpec, StageSpec, VariableRateConfig, VariableRateDKIC
from dkic.quantized import calibrate, convert, prepare

CONFIG = VariableRateConfig(
    analysis=(StageSpec(8, 12, 1, "conv"), StageSpec(2, 16, 1, "ldcn", 2)),
    synthesis=(StageSpec(4, 8, 1, "conv"), StageSpec(2, 12, 1, "ldcn", 2), StageSpec(2, 16, 0)),
    slices=(SliceSpec(2, 4), SliceSpec(3, 2), SliceSpec(5, 1)),
    context_channels=16,
    quality_points=3,
    quality_features=4,
)


def real(seed: int = 0) -> VariableRateDKIC:
    """Untrained, in its float state; every vector that depends on the quality does so, and differs between channels."""
    torch.manual_seed(seed)
    model = VariableRateDKIC(CONFIG).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".points"):
                parameter.add_(0.2 * torch.randn_like(parameter))
            if name.endswith("offset_mask.weight"):  # else nothing would be predicted
                torch.nn.init.normal_(parameter, std=0.1)
        model.g_a.head.weight.mul_(4)
    return model.requires_grad_(False)


def calibrated(seed: int = 0) -> VariableRateDKIC:
    """In its prepared state."""
    model = real(seed).requires_grad_(True)
    with torch.no_grad(), calibrate(model):
        for quality in (1.0, 50.0, 100.0):
            x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(seed))
            model.latent_bits(model.analyze(x), None, torch.full((2,), quality))
    prepare(model)
    return model


def converted(seed: int = 0) -> VariableRateDKIC:
    model = calibrated(seed)
    convert(model)
    return model.requires_grad_(False)
