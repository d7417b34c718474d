"""Replaces methods of CompressAI modules, in place and reversibly: a module's class becomes a subclass with other methods.

Parameters, buffers and `state_dict` keys stay as they are, `isinstance` still holds, and copies and pickles of an accelerated
model are accelerated too.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

from compressai.entropy_models import EntropyBottleneck, EntropyModel, GaussianConditional
from compressai.entropy_models.entropy_models import GaussianMixtureConditional
from compressai.latent_codecs import RasterScanLatentCodec
from compressai.models import JointAutoregressiveHierarchicalPriors
from torch import nn

from dkic.compressai import autoregressive as raster
from dkic.compressai import entropy_models as on_dkic

# Replacements for the methods of each class. A method that a subclass overrides is never replaced.
METHODS: dict[type[nn.Module], dict[str, Callable]] = {
    EntropyModel: {"compress": on_dkic.compress, "decompress": on_dkic.decompress},
    EntropyBottleneck: {
        "forward": on_dkic.bottleneck_forward,
        "compress": on_dkic.bottleneck_compress,
        "decompress": on_dkic.bottleneck_decompress,
    },
    GaussianConditional: {
        "build_indexes": on_dkic.build_indexes,
        "forward": on_dkic.gaussian_forward,
        "_likelihood": on_dkic.likelihood,
    },
    GaussianMixtureConditional: {
        "_likelihood": on_dkic.mixture_likelihood,
        "compress": on_dkic.mixture_compress,
        "decompress": on_dkic.mixture_decompress,
    },
    JointAutoregressiveHierarchicalPriors: {"compress": raster.joint_compress, "decompress": raster.joint_decompress},
    RasterScanLatentCodec: {"compress": raster.raster_scan_compress, "decompress": raster.raster_scan_decompress},
}
AUTOREGRESSIVE = (JointAutoregressiveHierarchicalPriors, RasterScanLatentCodec)


def accelerate(model: nn.Module, *, autoregressive: bool = True) -> nn.Module:
    """Runs the entropy models of a CompressAI model on dkic's kernels, in place; returns the model.

    It replaces the likelihoods of `GaussianConditional`, `GaussianMixtureConditional` and `EntropyBottleneck` (the last on the
    CPU and with its default filters), forward and backward; `build_indexes` of `GaussianConditional`; the entropy coder of
    `compress` and `decompress`; and the loop over positions of `JointAutoregressiveHierarchicalPriors`, `Cheng2020Anchor`,
    `Cheng2020Attention` and `RasterScanLatentCodec`. Streams are interchangeable with CompressAI's. Methods that a subclass
    overrides are kept. Calling it again changes nothing; `restore` undoes it.

    Args:
        model: a module with CompressAI entropy models in it, on any device, training or not, updated or not.
        autoregressive: False keeps CompressAI's loops over positions.

    Raises:
        TypeError: model is not a module, an entropy model in it has an entropy coder other than "ans", or a context model has
            layers that the native op does not support.
        ValueError: there is no CompressAI entropy model in it.
    """
    _accelerate(model, autoregressive)
    return model


def restore(model: nn.Module) -> nn.Module:
    """Undoes `accelerate`, in place; returns the model. A model that is not accelerated stays as it is."""
    _restore(list(model.modules()))
    return model


@contextmanager
def accelerated(model: nn.Module, *, autoregressive: bool = True) -> Iterator[nn.Module]:
    """Context manager: the model, accelerated inside the block. Modules accelerated before stay so. Raises as `accelerate`."""
    changed = _accelerate(model, autoregressive)
    try:
        yield model
    finally:
        _restore(changed)


def _accelerate(model: nn.Module, autoregressive: bool) -> list[nn.Module]:
    if not isinstance(model, nn.Module):
        raise TypeError(f"accelerate/model: must be a torch.nn.Module, and is a {type(model).__name__}; give the model itself")
    kinds = tuple(base for base in METHODS if autoregressive or base not in AUTOREGRESSIVE)
    found = {name: module for name, module in model.named_modules() if isinstance(module, kinds)}
    if not any(isinstance(module, EntropyModel) for module in found.values()):
        raise ValueError("accelerate/model: has no CompressAI entropy model; give a model that has one")
    for name, module in found.items():
        if isinstance(module, EntropyModel) and module.entropy_coder.name != "ans":
            raise TypeError(
                f"accelerate/model: {name or 'model'} has the entropy coder {module.entropy_coder.name!r}; "
                "construct it with entropy_coder='ans'"
            )
        if isinstance(module, AUTOREGRESSIVE) and _replaced(type(module)) and (reason := raster.unsupported(module)):
            repair = "give autoregressive=False to keep CompressAI's loops"
            raise TypeError(f"accelerate/model: {name or 'model'}: {reason}; {repair}")
    changed = [module for module in found.values() if not hasattr(module, "_dkic_original")]
    for module in changed:
        module.__class__ = _subclass(type(module))  # type: ignore[arg-type]
    return changed


def _restore(modules: list[nn.Module]) -> None:
    for module in modules:
        module.__class__ = getattr(module, "_dkic_original", type(module))


def _replaced(cls: type[nn.Module]) -> dict[str, Callable]:
    """The replacements in METHODS for the methods that `cls` inherits from CompressAI's classes."""
    return {
        name: method
        for base, replaced in METHODS.items()
        if issubclass(cls, base)
        for name, method in replaced.items()
        if getattr(cls, name) is vars(base)[name]
    }


@cache
def _subclass(cls: type[nn.Module]) -> type[nn.Module]:
    """A subclass with dkic's methods."""
    described = {name: getattr(cls, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(cls.__name__, (cls,), {**described, **_replaced(cls), "__reduce_ex__": _reduce, "_dkic_original": cls})


def _reduce(self: nn.Module, protocol: int) -> tuple:
    """Pickles the original class and the module's state: pickle can't find the subclass by name."""
    reduced = super(type(self), self).__reduce_ex__(max(protocol, 2))
    assert isinstance(reduced, tuple)
    _, _, *state = reduced
    return _new, (self._dkic_original,), *state


def _new(cls: type[nn.Module]) -> nn.Module:
    accelerated_class = _subclass(cls)  # type: ignore[arg-type]
    return accelerated_class.__new__(accelerated_class)
