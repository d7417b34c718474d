"""A recipe: what a PO-DKIC training run does, typed, checked, and read from a YAML file."""

import math
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from dkic.errors import DkicError
from dkic.models.presets import PRESETS
from dkic.models.variable_rate_config import VariableRateConfig
from dkic.output_file import reason

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


# A number, or two: at quality 1 and at quality 100.
AlongQuality = Annotated[float | list[float], BeforeValidator(_along_quality)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Weights(_Part):
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


class Rate(_Part):
    """How the rate is weighed.

    Of a model of one quality by equation 2: lambda_alpha at or above the target (bits per pixel), lambda_beta below it. Of a
    variable-rate model by two numbers, at quality 1 and 100; between them the weight is geometric.
    """

    target: Positive | None = None
    lambda_alpha: Positive | None = None
    lambda_beta: NotNegative | None = None
    weights: Annotated[list[Positive], Field(min_length=2, max_length=2)] | None = None

    @model_validator(mode="after")
    def _check(self) -> "Rate":
        by_target = [self.target, self.lambda_alpha, self.lambda_beta]
        if (None in by_target) == (self.weights is None) or (self.weights and any(v is not None for v in by_target)):
            raise ValueError("must have target, lambda_alpha and lambda_beta, or weights")
        if self.lambda_alpha is not None and self.lambda_beta is not None and self.lambda_beta >= self.lambda_alpha:
            below = f"below lambda_alpha ({self.lambda_alpha:g})"
            raise ValueError(f"lambda_beta must be {below}, not {self.lambda_beta:g}")
        return self


class LearningRate(_Part):
    """Adam's: values[i] until epoch epochs[i] of the whole run, the last value from there on.

    Or peak, reached after warmup_steps and falling along a cosine to 1/50 of it at the run's end.
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


class Stage(_Part):
    """A part of the run, with its factors on the rate's target and on both lambdas.

    gan: with the discriminator. freeze: encoder and entropy model stay as they are and the decoder alone learns, which
    steadies GAN training (MS-ILLM, Muckley et al. 2023).
    """

    epochs: Count
    gan: bool = False
    freeze: bool = False
    target_factor: Positive = 1.0
    lambda_factor: Positive = 1.0


class Recipe(_Part):
    """A run: stages after each other, epochs counted over all of them.

    preset: the model's, one of PRESETS. batch, crop: crops a step, and their side in pixels.
    epoch_steps: steps in an epoch; None: as many as there are whole batches in the photographs.
    lpips_net: "alex" or "vgg". lpips_shifts: LPIPS is taken of a window at a random one of so many places in each direction.
    With 1 a decoder learns where AlexNet samples, every 4th pixel, and leaves a fine weave: 0.173 became 0.200 where both
    pictures were moved by 2 pixels.
    vgg_crops: crops of every micro-batch that each judge with VGG's features sees, one judge's after the other's.
    discriminator_width: channels after its first layer; HiFiC has 64.
    clip_norm: bound of the gradients' norm.
    accumulation: micro-batches that each process takes its share of the batch in, for a GPU of little memory.
    precision: "bfloat16": g_a and g_s compute in it where autocast does; all else is float32.
    ema: of the weights' moving average, what is kept at each step; the average is what is written for use. None: no average.
    least_scale: every crop is of its photograph scaled by a random factor from this to 1, so that fine detail is met as often
    as in small pictures. imagenet_photos: how many photographs are taken of a folder in one of ImageNet's layouts; None: all.
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
        if variable != (self.rate.weights is not None):
            raise ValueError(f"rate must have {'weights' if variable else 'a target'} for {self.preset}")
        spans = [name for name, weight in self.weights if isinstance(weight, list)]
        if spans and not variable:
            raise ValueError(f"weights.{spans[0]} must be one number: {self.preset} has one quality")
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

    @classmethod
    def of(cls, values: Any) -> "Recipe":
        """From what a YAML file holds, or `to_dict` gave.

        Raises:
            DkicError: every key that is unknown or missing, and every value that can't be, by name.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise DkicError("; ".join(_sentence(e) for e in error.errors())) from None

    def to_dict(self) -> dict[str, Any]:
        return self.model_dump()


def read_recipe(path: str | Path) -> Recipe:
    """Read a recipe from a YAML file. DkicError, which begins with the path, where it can't be read or is none."""
    try:
        values = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise DkicError(f"{path}: can't be read ({reason(error)})") from None
    except yaml.MarkedYAMLError as error:
        where = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise DkicError(f"{path}{where}: not YAML ({error.problem})") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise DkicError(f"{path}: not YAML ({reason(error)})") from None
    if not isinstance(values, dict):
        raise DkicError(f"{path}: must hold a recipe's keys, and holds {type(values).__name__}")
    try:
        return Recipe.of(values)
    except DkicError as error:
        raise DkicError(f"{path}: {error}") from None


class _Loader(yaml.SafeLoader):
    """YAML as one reads it: 1e-4 is a number, which PyYAML takes for a word, and a key must not be there twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value]
        if twice := {key for key in keys if keys.count(key) > 1 and isinstance(key, str)}:
            raise yaml.constructor.ConstructorError(None, None, f"{min(twice)} is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


_EXPONENTIAL = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENTIAL, list("-+0123456789"))


def _sentence(error: Any) -> str:
    """Of one of pydantic's errors: the key, and what is wrong with it."""
    key = ".".join(map(str, error["loc"]))
    if error["type"] in ("extra_forbidden", "missing"):
        return f"{key}: {'missing' if error['type'] == 'missing' else 'unknown key'}"
    text = error["msg"].removeprefix("Value error, ").removeprefix("Input ").replace("should", "must")
    if isinstance(error["input"], dict) and error["type"] == "value_error":  # of keys that do not go together
        return f"{key}: {text}" if key else text
    return f"{key}: {text}, not {error['input']!r:.60}"
