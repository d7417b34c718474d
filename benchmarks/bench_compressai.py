"""CompressAI's models, original and accelerated by `dkic.compressai.accelerate`: the same model, inputs and symbols.

Models are untrained, with latents scaled to a standard deviation of 4 and varied scales, on a photograph of 768x512. The streams
of both are compared. Those of autoregressive models depend on the rounding of float networks, so each implementation decodes its
own, and only sizes are compared. Autoregressive models of CompressAI take seconds, so their rounds are few:

    python -m pytest benchmarks/bench_compressai.py --benchmark-only --threads 2
"""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from compressai.entropy_models import EntropyBottleneck, GaussianConditional
from compressai.models import (
    Cheng2020Anchor,
    Elic2022Official,
    JointAutoregressiveHierarchicalPriors,
    MeanScaleHyperprior,
)
from compressai.models.base import get_scale_table
from PIL import Image
from torch import Tensor, nn

from dkic.compressai import accelerate, restore

PHOTO = Path(__file__).resolve().parents[1] / "dkic" / "demo" / "photo.png"
IMPLEMENTATIONS = ["compressai", "dkic"]  # ours last: see conftest.py
LATENTS = {"192x32x48": (1, 192, 32, 48), "320x32x48": (1, 320, 32, 48)}
BATCHES = {"16x192x16x16": (16, 192, 16, 16), "8x320x16x16": (8, 320, 16, 16)}
AUTOREGRESSIVE = {
    "mbt2018, N=128": lambda: JointAutoregressiveHierarchicalPriors(128, 192),
    "mbt2018, N=192": lambda: JointAutoregressiveHierarchicalPriors(192, 320),
    "cheng2020-anchor, N=128": lambda: Cheng2020Anchor(128),
    "cheng2020-anchor, N=192": lambda: Cheng2020Anchor(192),
}
TRAINED = {
    "mbt2018-mean, N=128": lambda: MeanScaleHyperprior(128, 192),
    "elic2022-official": Elic2022Official,
}


@cache
def photo() -> Tensor:
    image = Image.open(PHOTO).convert("RGB").resize((768, 512), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255


@cache
def model_of(make: Callable[[], nn.Module]) -> nn.Module:
    """An updated model with varied latents and scales."""
    torch.manual_seed(0)
    model = make().eval()
    with torch.no_grad():
        last = [m for m in model.g_a.modules() if isinstance(m, nn.Conv2d) and m.stride != (1, 1)][-1]
        for _ in range(3):
            factor = 4 / model.g_a(photo()).std()
            last.weight.mul_(factor)
            last.bias.mul_(factor)
        for network in (m for name, m in model.named_modules() if name.endswith(("h_s", "entropy_parameters"))):
            for convolution in (m for m in network.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)):
                convolution.bias.normal_(0.5, 0.5)
    model.update(force=True)
    return model


@pytest.fixture
def chosen(implementation) -> Iterator[Callable[[nn.Module], nn.Module]]:
    """The model in an implementation; restored afterwards."""
    models: list[nn.Module] = []

    def choose(model: nn.Module) -> nn.Module:
        models.append(model)
        return accelerate(model) if implementation == "dkic" else model

    yield choose
    for model in models:
        restore(model)


def gaussian_problem(shape: tuple[int, ...]) -> tuple[GaussianConditional, Tensor, Tensor, Tensor]:
    """A model, y, scales and means, as a trained hyperprior has them: most scales are small."""
    model = GaussianConditional(None)
    model.update_scale_table(get_scale_table())
    generator = torch.Generator().manual_seed(0)
    scales = torch.exp(torch.empty(shape).normal_(-0.7, 1.3, generator=generator))
    means = torch.empty(shape).normal_(generator=generator)
    return model, means + scales * torch.empty(shape).normal_(generator=generator), scales, means


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("work", ["encode", "decode"])
@pytest.mark.parametrize("shape", LATENTS)
def test_entropy_coding(shape, work, implementation, chosen, measure):
    """Indexes and coder of a latent: scales to bytes, and back."""
    model, y, scales, means = gaussian_problem(LATENTS[shape])
    strings = model.compress(y, model.build_indexes(scales), means)
    y_hat = model.decompress(strings, model.build_indexes(scales), means=means)
    model = chosen(model)

    def encode() -> list[bytes]:
        return model.compress(y, model.build_indexes(scales), means)

    def decode() -> Tensor:
        return model.decompress(strings, model.build_indexes(scales), means=means)

    assert encode() == strings and torch.equal(decode(), y_hat)
    measure(f"entropy {work}, {shape}", implementation, {"encode": encode, "decode": decode}[work], 20)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("shape", LATENTS)
def test_indexes(shape, implementation, chosen, measure):
    """`build_indexes`: `dkic.ops.gaussian_indexes` with CompressAI's table and rule."""
    model, _, scales, _ = gaussian_problem(LATENTS[shape])
    indexes = model.build_indexes(scales)
    model = chosen(model)
    assert torch.equal(model.build_indexes(scales), indexes)
    measure(f"build_indexes, {shape}", implementation, lambda: model.build_indexes(scales), 20)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("shape", BATCHES)
def test_gaussian_likelihood(shape, implementation, chosen, measure):
    model, *tensors = gaussian_problem(BATCHES[shape])
    leaves = [t.requires_grad_() for t in tensors]
    gradients = [torch.randn(BATCHES[shape]) for _ in range(2)]
    model = chosen(model.train())

    def call() -> tuple[Tensor, ...]:
        return torch.autograd.grad(model(*leaves), leaves, gradients)

    measure(f"GaussianConditional forward+backward, {shape}", implementation, call, 20)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("shape", [(16, 192, 4, 4), (16, 192, 16, 16)], ids=lambda shape: "x".join(map(str, shape)))
def test_bottleneck_likelihood(shape, implementation, chosen, measure):
    model = EntropyBottleneck(shape[1]).train()
    z = (torch.randn(shape) * 4).requires_grad_()
    leaves = [z, *model.matrices, *model.biases, *model.factors]
    gradients = [torch.randn(shape) for _ in range(2)]
    model = chosen(model)

    def call() -> tuple[Tensor, ...]:
        return torch.autograd.grad(model(z), leaves, gradients)

    measure(f"EntropyBottleneck forward+backward, {'x'.join(map(str, shape))}", implementation, call, 10)


def size_of(out: dict) -> int:
    return sum(len(string) for strings in out["strings"] for string in strings)


@torch.no_grad()
def with_streams(model: nn.Module, x: Tensor, chosen: Callable, equal: bool) -> tuple[nn.Module, dict]:
    """The model in an implementation, and its streams, whose bytes (equal) or sizes within 1 % must be those of dkic."""
    ours = accelerate(model).compress(x)
    restore(model)
    model = chosen(model)
    out = model.compress(x)
    assert out["strings"] == ours["strings"] if equal else abs(size_of(out) / size_of(ours) - 1) < 0.01
    return model, out


def both_ways(make: Callable[[], nn.Module], work: str, chosen: Callable, equal: bool = True) -> Callable[[], object]:
    """compress or decompress of a whole model. equal: whether both implementations must have the same streams, not only sizes."""
    model, x = model_of(make), photo()
    model, out = with_streams(model, x, chosen, equal)

    @torch.no_grad()
    def compress() -> dict:
        return model.compress(x)

    @torch.no_grad()
    def decompress() -> dict:
        return model.decompress(out["strings"], out["shape"])

    return {"compress": compress, "decompress": decompress}[work]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("work", ["compress", "decompress"])
def test_elic(work, implementation, chosen, measure):
    call = both_ways(TRAINED["elic2022-official"], work, chosen)
    measure(f"elic2022-official {work}, 768x512", implementation, call, 7)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("work", ["compress", "decompress"])
@pytest.mark.parametrize("name", AUTOREGRESSIVE)
def test_autoregressive(name, work, implementation, chosen, measure):
    """Transforms, context model and coder."""
    call = both_ways(AUTOREGRESSIVE[name], work, chosen, equal=False)
    measure(f"{name} {work}, 768x512", implementation, call, 1 if implementation == "compressai" else 5, warmup=0)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("work", ["compress", "decompress"])
@pytest.mark.parametrize("name", AUTOREGRESSIVE)
def test_context_model_and_coder(name, work, implementation, chosen, measure):
    """The native op without the transforms: y and the hyperprior's parameters to bytes, and back."""
    model, x = model_of(AUTOREGRESSIVE[name]), photo()
    with torch.no_grad():
        y = model.g_a(x)
        z_hat = model.entropy_bottleneck.decompress(*_z_of(model, y))
        params = model.h_s(z_hat)
    transforms = model.g_a, model.h_a, model.h_s, model.g_s
    model.g_a, model.g_s = _Constant(y), nn.Identity()
    model.h_a, model.h_s = _Constant(z_hat), _Constant(params)
    try:
        model, out = with_streams(model, x, chosen, equal=False)
        results: list[dict] = []

        @torch.no_grad()
        def call() -> None:
            results.append(model.compress(x) if work == "compress" else model.decompress(out["strings"], out["shape"]))

        rounds = 1 if implementation == "compressai" else 5
        measure(f"{name} context model and coder, {work}", implementation, call, rounds, warmup=0)
        if work == "compress":
            assert results[-1]["strings"] == out["strings"]
        else:  # y_hat, clamped as an image
            assert (results[-1]["x_hat"] - y.clamp(0, 1)).abs().max() < 0.501
    finally:
        model.g_a, model.h_a, model.h_s, model.g_s = transforms


class _Constant(nn.Module):
    """Returns the same tensor for every input."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value

    def forward(self, _: Tensor) -> Tensor:
        return self.value.clone()


def _z_of(model: nn.Module, y: Tensor) -> tuple[list[bytes], torch.Size]:
    z = model.h_a(y)
    return model.entropy_bottleneck.compress(z), z.shape[-2:]


def training_step(model: nn.Module) -> Callable[[], None]:
    """Forward, rate-distortion loss, backward and an Adam step on 4 crops of 256x256."""
    optimizer = torch.optim.Adam(model.train().parameters(), lr=1e-6)
    x = torch.cat([photo()[..., 64 * i : 64 * i + 256, 128 * i : 128 * i + 256] for i in range(4)])

    def step() -> None:
        optimizer.zero_grad()
        out = model(x)
        rate = sum(likelihood.log2().sum() for likelihood in out["likelihoods"].values()) / -x[:, 0].numel()
        (rate + 255**2 * 0.01 * nn.functional.mse_loss(out["x_hat"], x)).backward()
        optimizer.step()

    return step


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", TRAINED)
def test_training_step(name, implementation, measure):
    """The steps of both implementations alternate, because the speed of a machine drifts by more than their difference."""
    torch.manual_seed(0)
    steps = {"compressai": training_step(TRAINED[name]()), "dkic": training_step(accelerate(TRAINED[name]()))}
    (other,) = (step for at, step in steps.items() if at != implementation)
    measure(f"training step of {name}, 4x256x256", implementation, steps[implementation], 9, before=other)
