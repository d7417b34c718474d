"""Replaces methods of CompressAI modules, in place and reversibly: a module's class becomes a subclass with other methods.

Parameters, buffers and `state_dict` keys stay as they are, `isinstance` still holds, and copies and pickles of an accelerated
model are accelerated too.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import NamedTuple

from compressai.entropy_models import EntropyBottleneck, EntropyModel, GaussianConditional
from compressai.entropy_models.entropy_models import GaussianMixtureConditional
from compressai.latent_codecs import RasterScanLatentCodec
from compressai.models import JointAutoregressiveHierarchicalPriors
from torch import nn

from dkic.compressai import autoregressive as raster
from dkic.compressai import entropy_models as on_dkic


class Replacement(NamedTuple):
    """method: has the results of CompressAI's without calling the methods `bypassed`, which must be CompressAI's too."""

    method: Callable
    bypassed: tuple[str, ...] = ()


# Replacements for the methods of each class. A method that a subclass or an object overrides is never replaced, nor is one that
# would no longer call it.
METHODS: dict[type[nn.Module], dict[str, Replacement]] = {
    EntropyModel: {"compress": Replacement(on_dkic.compress), "decompress": Replacement(on_dkic.decompress)},
    EntropyBottleneck: {
        "forward": Replacement(on_dkic.bottleneck_forward, ("quantize", "_likelihood", "_logits_cumulative")),
        "compress": Replacement(on_dkic.bottleneck_compress, ("_build_indexes", "_extend_ndims")),
        "decompress": Replacement(on_dkic.bottleneck_decompress, ("_build_indexes", "_extend_ndims")),
    },
    GaussianConditional: {
        "build_indexes": Replacement(on_dkic.build_indexes),
        "forward": Replacement(on_dkic.gaussian_forward, ("quantize", "_likelihood", "_standardized_cumulative")),
        "_likelihood": Replacement(on_dkic.likelihood, ("_standardized_cumulative",)),
    },
    GaussianMixtureConditional: {
        "_likelihood": Replacement(on_dkic.mixture_likelihood, ("_standardized_cumulative",)),
        "compress": Replacement(on_dkic.mixture_compress),
        "decompress": Replacement(on_dkic.mixture_decompress),
    },
    # One loop over positions alone is not replaced: encoder and decoder must have the same floating-point results.
    JointAutoregressiveHierarchicalPriors: {
        "compress": Replacement(raster.joint_compress, ("decompress", "_compress_ar", "_decompress_ar")),
        "decompress": Replacement(raster.joint_decompress, ("compress", "_compress_ar", "_decompress_ar")),
    },
    RasterScanLatentCodec: {
        "compress": Replacement(raster.raster_scan_compress, ("decompress", "merge")),
        "decompress": Replacement(raster.raster_scan_decompress, ("compress", "merge")),
    },
}
AUTOREGRESSIVE = (JointAutoregressiveHierarchicalPriors, RasterScanLatentCodec)


def accelerate(model: nn.Module, *, autoregressive: bool = True) -> nn.Module:
    """Runs the entropy models of a CompressAI model on dkic's kernels, in place; returns the model.

    It replaces the likelihoods of `GaussianConditional`, `GaussianMixtureConditional` and `EntropyBottleneck` (the last on the
    CPU and with its default filters), forward and backward; `build_indexes` of `GaussianConditional`; the entropy coder of
    `compress` and `decompress`; and the loop over positions of `JointAutoregressiveHierarchicalPriors`, `Cheng2020Anchor`,
    `Cheng2020Attention` and `RasterScanLatentCodec`. Streams are interchangeable with CompressAI's. Methods that a subclass
    or an object overrides are kept, and so are CompressAI's methods that call them. Calling it again changes nothing; `restore`
    undoes it.

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
        if isinstance(module, AUTOREGRESSIVE) and _replaced(module) and (reason := raster.unsupported(module)):
            repair = "give autoregressive=False to keep CompressAI's loops"
            raise TypeError(f"accelerate/model: {name or 'model'}: {reason}; {repair}")
    changed = [module for module in found.values() if not hasattr(module, "_dkic_original")]
    for module in changed:
        module.__class__ = _subclass(type(module), _replaced(module))  # type: ignore[arg-type]
    return changed


def _restore(modules: list[nn.Module]) -> None:
    for module in modules:
        module.__class__ = getattr(module, "_dkic_original", type(module))


def _replaced(module: nn.Module) -> tuple[tuple[type[nn.Module], str], ...]:
    """The keys in METHODS of what the module inherits from CompressAI's classes, with all that it calls there."""

    def inherits(base: type[nn.Module], name: str) -> bool:
        return name not in vars(module) and getattr(type(module), name) is getattr(base, name)

    return tuple(
        (base, name)
        for base, replacements in METHODS.items()
        if isinstance(module, base)
        for name, replacement in replacements.items()
        if all(inherits(base, one) for one in (name, *replacement.bypassed))
    )


@cache
def _subclass(cls: type[nn.Module], replaced: tuple[tuple[type[nn.Module], str], ...]) -> type[nn.Module]:
    """A subclass with dkic's methods."""
    described = {name: getattr(cls, name) for name in ("__module__", "__qualname__", "__doc__")}
    methods = {name: METHODS[base][name].method for base, name in replaced}
    own = {"__reduce_ex__": _reduce, "_dkic_original": cls, "_dkic_replaced": replaced}
    return type(cls.__name__, (cls,), {**described, **methods, **own})


def _reduce(self: nn.Module, protocol: int) -> tuple:
    """Pickles the original class and the module's state: pickle can't find the subclass by name."""
    reduced = super(type(self), self).__reduce_ex__(max(protocol, 2))
    assert isinstance(reduced, tuple)
    _, _, *state = reduced
    return _new, (self._dkic_original, self._dkic_replaced), *state


def _new(cls: type[nn.Module], replaced: tuple[tuple[type[nn.Module], str], ...]) -> nn.Module:
    accelerated_class = _subclass(cls, replaced)  # type: ignore[arg-type]
    return accelerated_class.__new__(accelerated_class)
