"""Bit-exact CompressAI models: streams that decode to the same symbols on every machine."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from compressai.entropy_models import EntropyModel, GaussianConditional
from compressai.latent_codecs import (
    ChannelGroupsLatentCodec,
    CheckerboardLatentCodec,
    GaussianConditionalLatentCodec,
    HyperLatentCodec,
    HyperpriorLatentCodec,
)
from compressai.models import MeanScaleHyperprior, ScaleHyperprior, SimpleVAECompressionModel
from torch import Tensor, nn

from dkic.compressai.entropy_models import tables_of
from dkic.compressai.quantized_network import UNITS, QuantizedNetwork
from dkic.compressai.replacement import accelerated
from dkic.quantized import ActivationScale, calibrate, convert, load

CHANNELS = 3
MULTIPLE = 64  # of the sides of images, for the models that do not state their own: 16 by g_a, 4 by h_a
MODELS = "ScaleHyperprior, MeanScaleHyperprior and models of a HyperpriorLatentCodec"


class BitExactReport(NamedTuple):
    """What bit-exactness costs on images: the size of their streams before and after."""

    float_bytes: int
    bit_exact_bytes: int

    @property
    def rate_change(self) -> float:
        """Relative: 0.005 is 0.5 % more bits."""
        return self.bit_exact_bytes / self.float_bytes - 1


def make_bit_exact(
    model: nn.Module, images: Tensor | Iterable[Tensor], measure: Iterable[Tensor] | None = None
) -> BitExactReport:
    """Quantizes the entropy networks of a CompressAI model, in place; returns the rate cost.

    The entropy networks compute scales and means: hyper-synthesis, context models and entropy parameters. They are replaced by
    integer networks (see `dkic.quantized`), so scale indexes and means are the same on every machine, for every number of
    threads, instruction set and convolution library. Encoder and decoder both need the converted model: save its state_dict,
    which includes the tables, and load it with `load_bit_exact`. The transforms of the image stay float networks.

    Args:
        model: trained and updated: a `ScaleHyperprior`, a `MeanScaleHyperprior`, or a model of a `HyperpriorLatentCodec` whose
            `y` is a `GaussianConditionalLatentCodec`, a `CheckerboardLatentCodec` or a `ChannelGroupsLatentCodec` of these.
        images: calibration images `[N, 3, H, W]` in [0, 1], or an iterable of them, on the model's device and in its dtype. Sides
            must be multiples of the model's downsampling factor, which is 64 for the models of CompressAI.
        measure: images for the report; None: the calibration images.

    Raises:
        TypeError: the model, or a layer in it, has no bit-exact form, or an entropy coder other than "ans"; images or measure are
            of another type.
        ValueError: `model.update()` has not been called, there are no images, or the model can't code them.
        DkicError: a layer violates a bound of exact arithmetic.

    After an error the model is unchanged.
    """
    replacements = _replacements(model)
    calibration = _checked(model, "images", images)
    measured = calibration if measure is None else _checked(model, "measure", measure)
    for module in model.modules():
        if isinstance(module, EntropyModel):
            tables_of(module)
    training = model.training
    model.eval()
    try:
        with _installed(replacements):
            float_bytes = _stream_bytes(model, "measure", measured) if measured is not calibration else None
            with calibrate(model):
                calibration_bytes = _stream_bytes(model, "images", calibration)
            convert(model)
            bit_exact_bytes = _stream_bytes(model, "measure", measured)
    finally:
        model.train(training)
    return BitExactReport(calibration_bytes if float_bytes is None else float_bytes, bit_exact_bytes)


def load_bit_exact(model: nn.Module, state_dict: Mapping[str, Any]) -> nn.Module:
    """Loads the state_dict of a model that `make_bit_exact` converted into a float model of the same shape, in place; returns it.

    Args:
        model: as for `make_bit_exact`; its weights are overwritten.
        state_dict: of the converted model. It includes the tables; do not call `update(force=True)`, which computes others.

    Raises:
        TypeError: as for `make_bit_exact`.
        DkicError: state_dict is not that of a converted model, or a layer violates a bound of exact arithmetic.
        RuntimeError: state_dict is that of a model of another shape.

    After an error the model has its original entropy networks.
    """
    with _installed(_replacements(model)):
        load(model, state_dict)
    return model


def _checked(model: nn.Module, name: str, images: Any) -> list[Tensor]:
    """The batches of `images`, each one that the model can take."""
    batches = [images] if isinstance(images, Tensor) else list(images) if isinstance(images, Iterable) else None
    wanted = "give a tensor [N, 3, H, W] in [0, 1], or an iterable of them"
    if batches is None:
        raise TypeError(f"make_bit_exact/{name}: is a {type(images).__name__}; {wanted}")
    if not batches:
        raise ValueError(f"make_bit_exact/{name}: has no images; give at least one")
    like = next(model.parameters())
    for x in batches:
        if not isinstance(x, Tensor):
            raise TypeError(f"make_bit_exact/{name}: contains a {type(x).__name__}; {wanted}")
        if x.dtype != like.dtype:
            raise TypeError(f"make_bit_exact/{name}: is {x.dtype} and the model {like.dtype}; {wanted} in the model's dtype")
        if x.dim() != 4 or x.shape[1] != CHANNELS or not x.numel():
            raise ValueError(f"make_bit_exact/{name}: contains a tensor of shape {list(x.shape)}; {wanted}, none of them empty")
        if x.device != like.device:
            raise ValueError(f"make_bit_exact/{name}: is on {x.device} and the model on {like.device}; move one")
        low, high = float(x.min()), float(x.max())
        if not (low >= 0 and high <= 1):  # written so that NaN fails
            raise ValueError(f"make_bit_exact/{name}: has values from {low:g} to {high:g}; scale or clamp them to [0, 1]")
    return batches


@torch.no_grad()
def _stream_bytes(model: Any, name: str, images: Iterable[Tensor]) -> int:
    with accelerated(model):
        return sum(len(s) for x in images for strings in _compressed(model, name, x) for s in strings)


def _compressed(model: Any, name: str, x: Tensor) -> list[list[bytes]]:
    multiple = getattr(model, "downsampling_factor", MULTIPLE)
    try:
        return model.compress(x)["strings"]
    except (ValueError, RuntimeError) as error:
        h, w = x.shape[2:]
        if h % multiple == 0 and w % multiple == 0:
            raise
        wrong = f"the model can't code images of {h}x{w} pixels ({error})"
        raise ValueError(f"make_bit_exact/{name}: {wrong}; crop or pad both sides to a multiple of {multiple}") from error


class _Replacement(NamedTuple):
    owner: nn.Module
    attribute: str
    network: QuantizedNetwork


@contextmanager
def _installed(replacements: Sequence[_Replacement]) -> Iterator[None]:
    """Installs the replacements; if the block raises, the original networks are restored."""
    before = [getattr(owner, attribute) for owner, attribute, _ in replacements]
    try:
        for owner, attribute, network in replacements:
            setattr(owner, attribute, network)
        yield
    except BaseException:
        for (owner, attribute, _), network in zip(replacements, before, strict=True):
            setattr(owner, attribute, network)
        raise


def _replacements(model: nn.Module) -> list[_Replacement]:
    """The quantized forms of the model's entropy networks, in order of computation."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: must be a torch.nn.Module, and is a {type(model).__name__}; give the model itself")
    plan = _Plan(model)
    compress = getattr(type(model), "compress", None)
    if compress is MeanScaleHyperprior.compress:
        plan.check_gaussian(model)
        plan.replace(model, "h_s", chunks=("scales", "means"))
    elif compress is ScaleHyperprior.compress:
        plan.check_gaussian(model)
        plan.replace(model, "h_s", chunks=("scales",))
    elif compress is SimpleVAECompressionModel.compress and type(model.latent_codec) is HyperpriorLatentCodec:
        plan.hyperprior(model.latent_codec)
    else:
        raise TypeError(f"model: {type(model).__name__} has no bit-exact form; it exists for {MODELS}")
    return plan.replacements


class _Plan:
    """Collects the replacements of a model's entropy networks."""

    def __init__(self, model: nn.Module) -> None:
        self.names = {module: name or "model" for name, module in model.named_modules()}
        self.replacements: list[_Replacement] = []

    def hyperprior(self, codec: Any) -> None:
        if type(codec.hyper) is not HyperLatentCodec:
            raise self._refusal(codec.hyper)
        if type(codec.y) is GaussianConditionalLatentCodec and isinstance(codec.y.entropy_parameters, nn.Identity):
            self.check_gaussian(codec.y)
            self.replace(codec.hyper, "h_s", chunks=self._chunks(codec.y))
        else:
            self.latent_codec(codec.y, [self.replace(codec.hyper, "h_s")])

    def latent_codec(self, codec: Any, side: list[ActivationScale]) -> None:
        """side: scales of the activations that the codec receives as parameters."""
        if type(codec) is GaussianConditionalLatentCodec:
            self.check_gaussian(codec)
            self.replace(codec, "entropy_parameters", side, self._chunks(codec))
        elif type(codec) is CheckerboardLatentCodec:
            inner = codec.latent_codec["y"]
            if type(inner) is not GaussianConditionalLatentCodec or not isinstance(inner.entropy_parameters, nn.Identity):
                raise self._refusal(inner)
            self.check_gaussian(inner)
            context = self.replace(codec, "context_prediction")
            self.replace(codec, "entropy_parameters", [context, *side], self._chunks(inner))
        elif type(codec) is ChannelGroupsLatentCodec:
            for k in range(len(codec.groups)):
                earlier = [self.replace(codec.channel_context, f"y{k}")] if k else []
                self.latent_codec(codec.latent_codec[f"y{k}"], [*earlier, *side])
        else:
            raise self._refusal(codec)

    def replace(
        self,
        owner: nn.Module,
        attribute: str,
        inputs: Sequence[ActivationScale] | None = None,
        chunks: Sequence[str] | None = None,
    ) -> ActivationScale:
        """Plans to replace a network; returns the scale of its output."""
        name = attribute if self.names[owner] == "model" else f"{self.names[owner]}.{attribute}"
        network = QuantizedNetwork(getattr(owner, attribute), name, inputs, chunks)
        self.replacements.append(_Replacement(owner, attribute, network))
        return network.outputs

    def check_gaussian(self, owner: Any) -> None:
        gaussian = owner.gaussian_conditional
        if getattr(gaussian, "_dkic_original", type(gaussian)) is not GaussianConditional:
            raise self._refusal(gaussian)

    def _chunks(self, codec: Any) -> tuple[str, ...]:
        if "scales" not in codec.chunks or not set(codec.chunks) <= set(UNITS):
            raise TypeError(f"model: {self.names[codec]} has the chunks {codec.chunks}; it needs scales, or both")
        return tuple(codec.chunks)

    def _refusal(self, module: nn.Module) -> TypeError:
        kind = type(module).__name__
        return TypeError(f"model: {self.names[module]} is a {kind}, which has no bit-exact form; it exists for {MODELS}")
