"""Replacing methods of CompressAI modules, in place and reversibly: a module's class becomes a subclass with other methods.

Parameters, buffers and `state_dict` keys stay as they are, `isinstance` still holds, and copies and pickles of an accelerated
model are accelerated too.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

from compressai.entropy_models import EntropyBottleneck, EntropyModel, GaussianConditional
from compressai.entropy_models.entropy_models import GaussianMixtureConditional
from torch import nn

from dkic.compressai import entropy_models as on_dkic

# What replaces the methods of each class. A subclass's own method is never replaced.
METHODS: dict[type[nn.Module], dict[str, Callable]] = {
    EntropyModel: {"compress": on_dkic.compress, "decompress": on_dkic.decompress},
    EntropyBottleneck: {"compress": on_dkic.bottleneck_compress, "decompress": on_dkic.bottleneck_decompress},
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
}


def accelerate(model: nn.Module) -> nn.Module:
    """Runs the entropy models of a CompressAI model on dkic's kernels, in place; returns the model.

    Replaced are the likelihoods of `GaussianConditional` and `GaussianMixtureConditional` (forward and backward), their indexes,
    and the coder behind `compress` and `decompress`. Streams are interchangeable with CompressAI's. Methods that a subclass
    overrides are kept. Calling it again changes nothing; `restore` undoes it.

    Args:
        model: a module with CompressAI entropy models in it, on any device, training or not, updated or not.

    Raises:
        TypeError: model is not a module, or an entropy model in it has another coder than "ans".
        ValueError: there is no CompressAI entropy model in it.
    """
    _accelerate(model)
    return model


def restore(model: nn.Module) -> nn.Module:
    """Undoes `accelerate`, in place; returns the model. A model that is not accelerated stays as it is."""
    _restore(list(model.modules()))
    return model


@contextmanager
def accelerated(model: nn.Module) -> Iterator[nn.Module]:
    """The model, accelerated within a `with` block. What was accelerated before stays so."""
    changed = _accelerate(model)
    try:
        yield model
    finally:
        _restore(changed)


def _accelerate(model: nn.Module) -> list[nn.Module]:
    if not isinstance(model, nn.Module):
        raise TypeError(f"accelerate/model: must be a torch.nn.Module, and is a {type(model).__name__}; give the model itself")
    found = {name: module for name, module in model.named_modules() if isinstance(module, tuple(METHODS))}
    if not found:
        raise ValueError("accelerate/model: has no CompressAI entropy model; give a model that has one")
    for name, module in found.items():
        if isinstance(module, EntropyModel) and module.entropy_coder.name != "ans":
            raise TypeError(
                f"accelerate/model: {name or 'model'} has the entropy coder {module.entropy_coder.name!r}; "
                "construct it with entropy_coder='ans'"
            )
    changed = [module for module in found.values() if not hasattr(module, "_dkic_original")]
    for module in changed:
        module.__class__ = _subclass(type(module))
    return changed


def _restore(modules: list[nn.Module]) -> None:
    for module in modules:
        module.__class__ = getattr(module, "_dkic_original", type(module))


@cache
def _subclass(cls: type[nn.Module]) -> type[nn.Module]:
    """A subclass with the methods of METHODS in the place of those that `cls` has from CompressAI's classes."""
    methods = {
        name: method
        for base, replaced in METHODS.items()
        if issubclass(cls, base)
        for name, method in replaced.items()
        if getattr(cls, name) is vars(base)[name]
    }
    described = {name: getattr(cls, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(cls.__name__, (cls,), {**described, **methods, "__reduce_ex__": _reduce, "_dkic_original": cls})


def _reduce(self: nn.Module, protocol: int) -> tuple:
    """Of a class that pickle can't find by its name: the original and the module's state."""
    _, _, *state = super(type(self), self).__reduce_ex__(max(protocol, 2))
    return _new, (self._dkic_original,), *state


def _new(cls: type[nn.Module]) -> nn.Module:
    accelerated_class = _subclass(cls)
    return accelerated_class.__new__(accelerated_class)
