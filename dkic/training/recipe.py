"""Recipes: the settings of a training run."""

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from dkic.losses.ms_ssim import LEAST_SIDE
from dkic.models.presets import PRESETS
from dkic.models.variable_rate_config import VariableRateConfig
from dkic.training.strict_model import StrictModel

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


def _along_quality(value: Any) -> float | list[float]:
    numbers = value if isinstance(value, list) else [value]
    if all(type(n) in (int, float) and math.isfinite(n) for n in numbers):
        if len(numbers) == 2 and min(numbers) > 0:
            return [float(n) for n in numbers]
        if numbers is not value and value >= 0:
            return float(value)
    raise ValueError("must be a number of at least 0, or two above 0")


def _rate_weight(value: Any) -> float | list[float] | None:
    weight = None if value is None else _along_quality(value)
    if weight == 0:
        raise ValueError("must be above 0")
    return weight


# One number, or two: the values at quality 1 and at quality 100.
AlongQuality = Annotated[float | list[float], BeforeValidator(_along_quality)]


class Weights(StrictModel):
    """Weights of the terms of the loss; mse, lpips and gan are those of Eq. 3 of the paper.

    For a variable-rate model, each weight may be two numbers: its values at quality 1 and at quality 100; see
    `dkic.training.along_quality`.

    Attributes:
        mse: weight of the MSE of values in [0, 255].
        lpips: weight of LPIPS with `Recipe.lpips_net`.
        gan: weight of the generator's loss, in stages with `gan`.
        dists: weight of DISTS, computed on `Recipe.vgg_crops` crops.
        lpips_vgg: weight of LPIPS with VGG-16, computed on `Recipe.vgg_crops` crops.
        color: weight of `dkic.losses.color.color_distance`.
        ms_ssim: weight of `dkic.losses.ms_ssim.ms_ssim_distance`; needs a crop of at least 128 pixels.
    """

    mse: AlongQuality
    lpips: AlongQuality
    gan: AlongQuality
    dists: AlongQuality = 0.0
    lpips_vgg: AlongQuality = 0.0
    color: AlongQuality = 0.0
    ms_ssim: AlongQuality = 0.0


class Rate(StrictModel):
    """Weight of the rate: either a constant `weight`, or Eq. 2 of the paper for a model of one quality.

    Attributes:
        target: target rate of Eq. 2, in bits per pixel.
        lambda_alpha: weight of the rate at or above the target.
        lambda_beta: weight of the rate below the target.
        weight: one number; or, for a variable-rate model, two numbers at quality 1 and 100, interpolated geometrically.
    """

    target: Positive | None = None
    lambda_alpha: Positive | None = None
    lambda_beta: NotNegative | None = None
    weight: Annotated[float | list[float] | None, BeforeValidator(_rate_weight)] = None

    @model_validator(mode="after")
    def _check(self) -> "Rate":
        by_target = [self.target, self.lambda_alpha, self.lambda_beta]
        if (None in by_target) == (self.weight is None) or (self.weight and any(v is not None for v in by_target)):
            raise ValueError("must have target, lambda_alpha and lambda_beta, or weight")
        if self.lambda_alpha is not None and self.lambda_beta is not None and self.lambda_beta >= self.lambda_alpha:
            below = f"below lambda_alpha ({self.lambda_alpha:g})"
            raise ValueError(f"lambda_beta must be {below}, not {self.lambda_beta:g}")
        return self


class LearningRate(StrictModel):
    """Learning rate of all optimizers: piecewise constant, or with `peak` a cosine schedule.

    Attributes:
        values: learning rates; `values[i]` applies before epoch `epochs[i]`, the last value from the last epoch in `epochs` on.
        epochs: epochs of the whole run at which the learning rate changes, increasing.
        peak: peak learning rate of a `CosineSchedule`.
        warmup_steps: steps of linear warmup of a `CosineSchedule`.
    """

    values: list[Positive] = []
    epochs: list[Count] = []
    peak: Positive | None = None
    warmup_steps: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _check(self) -> "LearningRate":
        if self.peak is not None:
            if self.values or self.epochs:
                raise ValueError("must have peak, or values and epochs")
            return self
        if len(self.values) != len(self.epochs) + 1:
            raise ValueError(f"values must be one more than epochs, not {len(self.values)} and {len(self.epochs)}")
        if sorted(set(self.epochs)) != self.epochs:
            raise ValueError(f"epochs must increase, not {self.epochs}")
        return self


class Stage(StrictModel):
    """A stage of the run.

    Attributes:
        epochs: length in epochs.
        gan: whether to train with a discriminator.
        gan_ramp_epochs: epochs at the start of the stage in which the weight of the GAN loss rises linearly from 0.
        freeze: whether to freeze the encoder and the entropy model and train only the decoder, which stabilizes GAN training
            (MS-ILLM, Muckley et al. 2023).
        target_factor: factor of `Rate.target`.
        lambda_factor: factor of `Rate.lambda_alpha` and `lambda_beta`, or of `Rate.weight`.
    """

    epochs: Count
    gan: bool = False
    gan_ramp_epochs: Annotated[int, Field(ge=0)] = 0
    freeze: bool = False
    target_factor: Positive = 1.0
    lambda_factor: Positive = 1.0

    @model_validator(mode="after")
    def _check(self) -> "Stage":
        if self.gan_ramp_epochs > (self.epochs if self.gan else 0):
            bound = f"at most the stage's {self.epochs} epochs" if self.gan else "0 if a stage has no gan"
            raise ValueError(f"gan_ramp_epochs must be {bound}, not {self.gan_ramp_epochs}")
        return self


class Recipe(StrictModel):
    """Settings of a training run.

    Attributes:
        preset: architecture, one of PRESETS.
        batch: crops per optimizer step, over all processes.
        crop: side of the crops in pixels, a multiple of 64.
        weights: weights of the distortion terms.
        rate: weight of the rate.
        learning_rate: learning rate of the codec and the discriminator.
        stages: stages in order; epochs are counted over all stages.
        epoch_steps: steps per epoch; None: the number of photographs divided by `batch`.
        lpips_net: "alex" or "vgg".
        lpips_shifts: number of positions, in each direction, of the random window on which LPIPS is computed. With 1, the decoder
            overfits to the pixels that AlexNet samples (every 4th): LPIPS 0.173 became 0.200 on images shifted by 2 pixels.
        vgg_crops: crops per micro-batch for each of DISTS and LPIPS-VGG; the metrics use disjoint crops.
        discriminator_width: channels of the discriminator's first layer; 64 in HiFiC.
        clip_norm: maximum gradient norm of each optimizer's weights.
        optimizer: "muon": Muon for the convolutions of g_a and g_s (`ConvMuon`), Adam for everything else.
        seed: seed of the initial weights, crops and noise.
        accumulation: micro-batches per step of each process, to reduce the memory on a GPU.
        precision: "bfloat16": autocast in g_a and g_s; everything else is float32.
        compile: whether to compile the transforms and the perceptual metrics, on a GPU into CUDA graphs. Results differ
            by rounding.
        ema: decay of the exponential moving average of the weights, which is what the weights file contains; None: no average.
        least_scale: minimum of the random scale of photographs before cropping; see `PhotoFolder`.
        imagenet_photos: number of photographs from a folder in one of ImageNet's layouts; None: all.
    """

    preset: str
    batch: Count
    crop: Count
    weights: Weights
    rate: Rate
    learning_rate: LearningRate
    stages: Annotated[list[Stage], Field(min_length=1)]
    epoch_steps: Count | None = None
    lpips_net: Literal["alex", "vgg"] = "alex"
    lpips_shifts: Count = 1
    vgg_crops: Count = 1
    discriminator_width: Count = 64
    clip_norm: Positive = 1.0
    optimizer: Literal["adam", "muon"] = "adam"
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    accumulation: Count = 1
    precision: Literal["float32", "bfloat16"] = "float32"
    compile: bool = False
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    least_scale: Annotated[float, Field(ge=0.1, le=1)] = 1.0
    imagenet_photos: Count | None = None

    @field_validator("preset")
    @classmethod
    def _known(cls, preset: str) -> str:
        if preset not in PRESETS:
            raise ValueError(f"must be one of {', '.join(PRESETS)}")
        return preset

    @field_validator("crop")
    @classmethod
    def _of_whole_latents(cls, crop: int) -> int:
        if crop % 64:
            raise ValueError("must be a multiple of 64")
        return crop

    @model_validator(mode="after")
    def _check(self) -> "Recipe":
        if any(stage.gan for stage in self.stages) and not self.weights.gan:
            raise ValueError("weights.gan must be above 0 if a stage has gan")
        if self.weights.mse == self.weights.lpips == 0:
            raise ValueError("weights.mse or weights.lpips must be above 0")
        variable = isinstance(PRESETS[self.preset], VariableRateConfig)
        if variable and self.rate.weight is None:
            raise ValueError(f"rate must have a weight for {self.preset}")
        spans = [f"weights.{name}" for name, weight in self.weights if isinstance(weight, list)]
        spans += ["rate.weight"] * isinstance(self.rate.weight, list)
        if spans and not variable:
            raise ValueError(f"{spans[0]} must be one number: {self.preset} has one quality")
        share = self.batch // self.accumulation
        if self.vgg_crops_total > share:
            most = share * self.vgg_crops // self.vgg_crops_total
            raise ValueError(f"vgg_crops must be at most {most}, and is {self.vgg_crops}")
        if self.lpips_shifts > self.crop // 2:
            raise ValueError(f"lpips_shifts must be at most half of the crop of {self.crop}, and is {self.lpips_shifts}")
        if self.weights.ms_ssim and self.crop < LEAST_SIDE:
            raise ValueError(f"crop must be at least 128 for weights.ms_ssim, and is {self.crop}")
        if self.batch % self.accumulation:
            raise ValueError(f"accumulation must divide the batch of {self.batch}, and is {self.accumulation}")
        epochs = sum(stage.epochs for stage in self.stages)
        if self.learning_rate.epochs and self.learning_rate.epochs[-1] >= epochs:
            last = self.learning_rate.epochs[-1]
            raise ValueError(f"learning_rate.epochs must be below the stages' {epochs}, not {last}")
        return self

    @property
    def vgg_crops_total(self) -> int:
        """Crops per micro-batch that DISTS and LPIPS-VGG use in total."""
        return self.vgg_crops * sum(weight != 0 for weight in (self.weights.dists, self.weights.lpips_vgg))
