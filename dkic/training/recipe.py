"""A recipe: what a training run does."""

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

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


# A number, or two: at quality 1 and at quality 100.
AlongQuality = Annotated[float | list[float], BeforeValidator(_along_quality)]


class Weights(StrictModel):
    """Weights of the loss' terms, those of equation 3 first.

    mse: of values in [0, 255]. lpips: of `lpips_net`. gan: in stages that have it. dists, lpips_vgg: of `vgg_crops` crops.
    color: of `dkic.losses.color.color_distance`. Of a variable-rate model each may be two numbers, at quality 1 and 100.
    """

    mse: AlongQuality
    lpips: AlongQuality
    gan: AlongQuality
    dists: AlongQuality = 0.0
    lpips_vgg: AlongQuality = 0.0
    color: AlongQuality = 0.0


class Rate(StrictModel):
    """How the rate is weighted.

    Either `weight`: one number, or two for a variable-rate model, at quality 1 and 100; between them the weight is geometric. Or,
    for a model of one quality, equation 2: lambda_alpha at or above the target (bits per pixel), lambda_beta below it.
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
    """Adam's: values[i] until epoch epochs[i] of the whole run, the last value from there on.

    Or peak and warmup_steps, see `CosineSchedule`.
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
            raise ValueError(f"epochs must rise, not {self.epochs}")
        return self


class Stage(StrictModel):
    """A part of the run, with its factors on the rate's target and on both lambdas.

    gan: with the discriminator, whose weight rises linearly from 0 over the stage's first `gan_ramp_epochs`.
    freeze: encoder and entropy model stay as they are and the decoder alone learns, which steadies GAN training (MS-ILLM, Muckley
    et al. 2023).
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
            bound = f"at most the stage's {self.epochs} epochs" if self.gan else "0 where a stage has no gan"
            raise ValueError(f"gan_ramp_epochs must be {bound}, not {self.gan_ramp_epochs}")
        return self


class Recipe(StrictModel):
    """A run: stages after each other, epochs counted over all of them.

    preset: the model's, one of PRESETS. batch, crop: crops a step, and their side in pixels.
    epoch_steps: steps in an epoch; None: as many as there are whole batches in the photographs.
    lpips_net: "alex" or "vgg". lpips_shifts: LPIPS is taken of a window at a random one of so many places in each direction.
    With 1 a decoder learns where AlexNet samples, every 4th pixel, and leaves a fine weave: 0.173 became 0.200 where both
    images were moved by 2 pixels.
    vgg_crops: crops of every micro-batch that each judge with VGG's features sees, one judge's after the other's.
    discriminator_width: channels after its first layer; HiFiC has 64.
    clip_norm: bound of the gradients' norm.
    accumulation: micro-batches that each process takes its share of the batch in, for a GPU of little memory.
    precision: "bfloat16": g_a and g_s compute in it where autocast does; all else is float32.
    compile: transforms and judges' networks are compiled, on a GPU into CUDA graphs; results differ in rounding.
    ema: of the weights' moving average, what is kept at each step; the average is what is written for use. None: no average.
    least_scale: every crop is of its photograph scaled by a random factor from this to 1, so that fine detail is met as often
    as in small images. imagenet_photos: how many photographs are taken of a folder in one of ImageNet's layouts; None: all.
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
            raise ValueError("weights.gan must be above 0 where a stage has gan")
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
        if self.judged_crops > share:
            most = share * self.vgg_crops // self.judged_crops
            raise ValueError(f"vgg_crops must be at most {most}, and is {self.vgg_crops}")
        if self.lpips_shifts > self.crop // 2:
            raise ValueError(f"lpips_shifts must be at most half of the crop of {self.crop}, and is {self.lpips_shifts}")
        if self.batch % self.accumulation:
            raise ValueError(f"accumulation must divide the batch of {self.batch}, and is {self.accumulation}")
        epochs = sum(stage.epochs for stage in self.stages)
        if self.learning_rate.epochs and self.learning_rate.epochs[-1] >= epochs:
            last = self.learning_rate.epochs[-1]
            raise ValueError(f"learning_rate.epochs must be below the stages' {epochs}, not {last}")
        return self

    @property
    def judged_crops(self) -> int:
        """Crops of a process' micro-batch that judges with VGG's features see, all of them together."""
        return self.vgg_crops * sum(weight != 0 for weight in (self.weights.dists, self.weights.lpips_vgg))
