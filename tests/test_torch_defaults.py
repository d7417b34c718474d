"""Results do not depend on torch's default dtype and device, and these are not changed."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lpips_weights import need_backbone
from ops.op_cases import LATENT, PLAIN, PLAIN_CONV
from photographs import crop
from PIL import Image
from quantized.quantized_models import CONFIG as SMALL
from torch import Tensor
from trained_weights import THREE_QUALITIES

import dkic
from dkic.coding.codec import Codec
from dkic.evaluation.metrics import batch, lpips, ms_ssim, psnr
from dkic.losses.lpips import LPIPS
from dkic.losses.lpips_tiles import lpips_in_tiles
from dkic.models import DKIC
from dkic.models.complexity import complexity
from dkic.models.trainable import trainable
from dkic.models.weights_file import load_weights, save_weights
from dkic.nn.ldcn_block import LDCNBlock
from dkic.ops import reference
from dkic.quantized import ActivationScale, convert
from dkic.training.mse_recipe import mse_recipe
from dkic.training.photos import PhotoFolder
from dkic.training.processes import accelerator_for
from dkic.training.staged_run import StagedRun

DTYPES = [torch.float64, torch.bfloat16, torch.float16]


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
        assert torch.get_default_dtype() == dtype
    finally:
        torch.set_default_dtype(before)


@contextmanager
def default_device(device: str) -> Iterator[None]:
    torch.set_default_device(device)
    try:
        yield
        assert torch.get_default_device() == torch.device(device)
    finally:
        torch.set_default_device(None)


DEFAULTS = [
    *(pytest.param(lambda dtype=dtype: default_dtype(dtype), id=str(dtype)) for dtype in DTYPES),
    pytest.param(lambda: default_device("meta"), id="set_default_device"),
    pytest.param(lambda: torch.device("meta"), id="with torch.device"),
]
Defaults = Callable[[], Any]


def gradients(op: Callable[..., Any], tensors: tuple[Tensor | None, ...], **options: Any) -> list[Tensor]:
    leaves = [t if t is None else t.detach().requires_grad_() for t in tensors]
    outputs = op(*leaves, **options)
    outputs = [t for t in (outputs if isinstance(outputs, tuple) else (outputs,)) if t.requires_grad]
    wanted = [t for t in leaves if t is not None]
    return [*outputs, *torch.autograd.grad([t.square().sum() for t in outputs], wanted)]


# Created without these defaults, for calls under them.
IMAGE = crop(70, 90)
LATENTS = LATENT.tensors(torch.float32)
NOISE = {"quantize": "noise", "noise": LATENT.noise(torch.float32), "reduction": "sum"}
SAMPLED = PLAIN.tensors(torch.float32)
CONVOLUTION = dict(zip(("input", "offset", "weight", "bias", "mask"), PLAIN_CONV.tensors(torch.float32), strict=True))
X, X_HAT = (batch(crop(200, 180, top)) for top in (100, 120))


def of_ops() -> list[Tensor]:
    """Results and gradients of the kernels and of the reference."""
    found = []
    for ops in (dkic.ops, reference):

        def convolve(*tensors: Tensor, op: Callable[..., Tensor] = ops.deform_conv2d) -> Tensor:
            return op(**dict(zip(CONVOLUTION, tensors, strict=True)), **PLAIN_CONV.geometry)

        found += gradients(ops.ldcn, SAMPLED, **PLAIN.geometry) + gradients(convolve, tuple(CONVOLUTION.values()))
        found += gradients(ops.gaussian_likelihood, LATENTS, quantize="round")
        found += gradients(ops.gaussian_likelihood, LATENTS, **NOISE)
    drawn = dkic.ops.gaussian_likelihood(*LATENTS, quantize="noise", generator=torch.Generator("cpu").manual_seed(1))
    return [*found, *dkic.ops.gaussian_symbols(*LATENTS), *drawn, reference.gaussian_noise((2, 5), 3)]


def of_codec(codec: Codec) -> list[bytes | np.ndarray | Tensor]:
    quality = codec.compress(IMAGE, quality=codec.qualities[0])
    image = torch.from_numpy(IMAGE).permute(2, 0, 1)
    files = [quality, codec.compress(image, target_bpp=0.6), codec.compress(image.float() / 255, qstep=3, tile=64)]
    return [*files, *(codec.decompress(file, output) for file in files for output in ("numpy", "torch"))]


def of_metrics(network: LPIPS) -> list[Tensor]:
    x, x_hat = X.float() / 255, X_HAT.float() / 255
    small = X[..., :20, :20]
    found = [psnr(X, X_HAT), ms_ssim(X, X_HAT), ms_ssim(small, small), lpips(X, X_HAT, network), lpips(small, small, network)]
    return [*found, lpips_in_tiles(network, X, X_HAT, 64), *gradients(network, (x, x_hat))]


def assert_same(found: list[Any], expected: list[Any]) -> None:
    for f, e in zip(found, expected, strict=True):
        assert type(f) is type(e)
        if isinstance(f, Tensor):
            assert f.dtype == e.dtype and f.device == e.device and torch.equal(f.nan_to_num(), e.nan_to_num())
        else:
            assert np.array_equal(f, e)


@pytest.mark.parametrize("defaults", DEFAULTS)
def test_ops(defaults: Defaults):
    expected = of_ops()
    with defaults():
        found = of_ops()
    assert_same(found, expected)


@pytest.fixture(scope="module", params=["small", THREE_QUALITIES], ids=["one network", "several networks"])
def model(request) -> str | Path:
    return request.param


@pytest.fixture(scope="module")
def expected(model) -> list[Any]:
    return of_codec(dkic.load(model))


@pytest.mark.parametrize("defaults", DEFAULTS)
def test_codec(defaults: Defaults, model: str | Path, expected: list[Any]):
    """Loaded and used under the defaults; and loaded under them, used afterwards."""
    with defaults():
        codec = dkic.load(model)
        assert_same(of_codec(codec), expected)
    assert_same(of_codec(codec), expected)


@pytest.mark.parametrize("defaults", DEFAULTS)
def test_lpips_and_metrics(defaults: Defaults):
    need_backbone("alex")
    expected = of_metrics(LPIPS("alex"))
    with defaults():
        found = of_metrics(LPIPS("alex"))
    assert_same(found, expected)


@pytest.mark.parametrize("defaults", DEFAULTS)
def test_weights_files(defaults: Defaults, tmp_path: Path):
    """Weights files of float and of quantized networks: reading and writing."""
    torch.manual_seed(0)
    network = DKIC(SMALL)
    for module in network.modules():
        if isinstance(module, ActivationScale):
            module.scale.fill_(1 / 64)
    integers = copy.deepcopy(network)

    def written(name: str) -> list[bytes]:
        quantized = copy.deepcopy(integers)
        convert(quantized)
        save_weights(tmp_path / f"{name}-float.safetensors", network, 1, {})
        save_weights(tmp_path / f"{name}-quantized.safetensors", quantized, 1, {})
        return [(tmp_path / f"{name}-{kind}.safetensors").read_bytes() for kind in ("float", "quantized")]

    expected = written("expected")
    with defaults():
        assert written("found") == expected
        loaded = [load_weights(tmp_path / f"found-{kind}.safetensors") for kind in ("float", "quantized")]
        assert all(p.dtype == torch.float32 and p.device.type == "cpu" for p in trainable(loaded[1]).parameters())
    for weights in loaded:
        again = load_weights(weights.path)
        assert_same(list(weights.model.h_s.state_dict().values()), list(again.model.h_s.state_dict().values()))
        assert_same(list(weights.model.g_a.state_dict().values()), list(again.model.g_a.state_dict().values()))


@pytest.mark.parametrize("defaults", DEFAULTS)
def test_complexity(defaults: Defaults):
    expected = complexity(SMALL)
    with defaults():
        assert complexity(SMALL) == expected


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_modules_for_training_follow_the_default(dtype: torch.dtype):
    """As PyTorch's modules do; buffers are float32."""
    with default_dtype(dtype):
        modules = [LDCNBlock(8, 2), DKIC(SMALL)]
    assert all(p.dtype == dtype for module in modules for p in module.parameters())
    assert all(buffer.dtype == torch.float32 for buffer in modules[1].buffers())
    with torch.device("meta"):
        modules = [LDCNBlock(8, 2), DKIC(SMALL)]
    assert all(t.is_meta for module in modules for t in module.state_dict().values())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_training(dtype: torch.dtype, tmp_path: Path):
    """In float32, as the crops are."""
    Image.fromarray(crop(64, 64)).save(tmp_path / "photograph.png")
    with default_dtype(dtype):
        recipe = mse_recipe("tiny", lambda_=0.0067, steps=1, batch=1, crop=64)
        run = StagedRun(recipe, PhotoFolder(tmp_path, 64), accelerator_for("cpu"))
        result = run.train_step()
    assert np.isfinite(result.loss) and all(p.dtype == torch.float32 for p in run.trained().parameters())


def test_a_model_of_float64_trains():
    with default_dtype(torch.float64):
        model = DKIC(SMALL)
    out = model(torch.zeros(1, 3, 64, 64, dtype=torch.float64))
    (out.bits.sum() + out.x_hat.square().sum()).backward()
    assert out.bits.dtype == torch.float64 and all(p.grad is None or p.grad.dtype == torch.float64 for p in model.parameters())
