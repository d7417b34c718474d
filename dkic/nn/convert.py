"""Replaces the deformable convolutions of torchvision, mmcv, InternImage and FlashInternImage by the layers of `dkic.nn`."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from dkic.nn.dcnv3 import DCNv3
from dkic.nn.dcnv4 import DCNv4
from dkic.nn.deform_conv2d import DeformConv2d, DeformConv2dPack


def _given_offsets(m: Any) -> nn.Module:
    return DeformConv2d(*_convolution(m))


def _dcnv2_pack(m: Any) -> nn.Module:
    return DeformConv2dPack(*_convolution(m)[:-1], m.deform_groups, m.bias is not None)


def _dcnv1_pack(m: Any) -> nn.Module:
    return DeformConv2dPack(*_convolution(m)[:-1], m.deform_groups, bias=False, modulated=False)


def _convolution(m: Any) -> tuple[int, int, Any, Any, Any, Any, int, bool]:
    geometry = m.kernel_size, m.stride, m.padding, m.dilation
    return m.in_channels, m.out_channels, *geometry, m.groups, getattr(m, "bias", None) is not None


def _dcnv3(m: Any) -> nn.Module:
    normalization = next(layer for layer in m.dw_conv[1] if isinstance(layer, nn.LayerNorm | nn.BatchNorm2d))
    return DCNv3(
        **_dcn(m),
        dw_kernel_size=m.dw_kernel_size,
        act_layer=type(m.dw_conv[2]).__name__,
        norm_layer="LN" if isinstance(normalization, nn.LayerNorm) else "BN",
    )


def _dcnv4(m: Any) -> nn.Module:
    return DCNv4(
        **_dcn(m),
        dw_kernel_size=m.dw_kernel_size,
        output_bias=m.without_pointwise or m.output_proj.bias is not None,
        without_pointwise=m.without_pointwise,
    )


def _dcn(m: Any) -> dict[str, Any]:
    names = "channels", "kernel_size", "stride", "pad", "dilation", "group", "offset_scale", "center_feature_scale"
    return {**{name: getattr(m, name) for name in names}, "remove_center": bool(m.remove_center)}


# Keyed by package and class name, so that the packages need not be installed.
_CONVERSIONS: dict[tuple[str, str], Callable[[Any], nn.Module]] = {
    ("torchvision", "DeformConv2d"): _given_offsets,
    ("mmcv", "DeformConv2d"): _given_offsets,
    ("mmcv", "ModulatedDeformConv2d"): _given_offsets,
    ("mmcv", "DeformConv2dPack"): _dcnv1_pack,
    ("mmcv", "ModulatedDeformConv2dPack"): _dcnv2_pack,
}
# Keyed by class name alone: these classes are imported from folders of various names (ops_dcnv3, DCNv4, models ...).
_CONVERSIONS_BY_NAME = {"DCNv3": _dcnv3, "DCNv3_pytorch": _dcnv3, "DCNv4": _dcnv4}


def convert(model: nn.Module) -> nn.Module:
    """Replaces the deformable convolutions of a model by dkic's, in place.

    It replaces torchvision's `DeformConv2d`; mmcv's `DeformConv2d`, `ModulatedDeformConv2d`, `DeformConv2dPack` and
    `ModulatedDeformConv2dPack`; `DCNv3` and `DCNv3_pytorch` of InternImage; `DCNv4` of FlashInternImage. Parameters stay the same
    objects, so an existing optimizer remains valid; mode, dtype, device, forward hooks and backward hooks are kept. Subclasses of
    torchvision's and mmcv's classes are not replaced, because their methods may differ.

    Returns:
        The model, or a new module if the model itself is a deformable convolution.

    Raises:
        TypeError: model is not a module.
        ValueError: a module has a geometry that dkic does not support, is parametrized (weight_norm, spectral_norm), or is an
            unrelated class of the same name; the message names it. The model is unchanged.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"convert/model: must be a torch.nn.Module, and is a {type(model).__name__}; give the model itself")
    replaced: dict[nn.Module, nn.Module] = {}
    paths: dict[str, nn.Module] = {}
    for path, module in list(model.named_modules(remove_duplicate=False)):
        make = _conversion(module)
        if make is None:
            continue
        if module not in replaced:
            replaced[module] = _with_parameters_of(module, make, path or "model")
        paths[path] = replaced[module]
    for original, converted in replaced.items():
        _share_hooks(original, converted)
    for path, converted in paths.items():
        if not path:
            return converted
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, converted)
    return model


def _conversion(m: nn.Module) -> Callable[[Any], nn.Module] | None:
    cls = _class_of(m)
    package, name = cls.__module__.split(".")[0], cls.__name__
    return None if package == "dkic" else _CONVERSIONS.get((package, name)) or _CONVERSIONS_BY_NAME.get(name)


def _class_of(m: nn.Module) -> type[nn.Module]:
    """A module's class; of a parametrized module that from before, of which torch makes a subclass."""
    return type(m).__bases__[0] if parametrize.is_parametrized(m) else type(m)


def _with_parameters_of(original: nn.Module, make: Callable[[Any], nn.Module], path: str) -> nn.Module:
    cls = f"{_class_of(original).__module__}.{_class_of(original).__qualname__}"
    for name, module in original.named_modules():
        if parametrize.is_parametrized(module):
            tensors = ", ".join(module.parametrizations)
            repair = "call torch.nn.utils.parametrize.remove_parametrizations first"
            where = f"{path}.{name}" if name else path
            raise ValueError(f"convert/model: {path} ({cls}) can't be converted ({where} parametrizes {tensors}); {repair}")
    try:
        with torch.random.fork_rng(devices=[]):  # the initial parameters are discarded, so the random state must not change
            converted = make(original)
        converted.load_state_dict(original.state_dict(keep_vars=True), assign=True)
    except (AttributeError, RuntimeError, ValueError) as error:
        raise ValueError(f"convert/model: {path} ({cls}) can't be converted ({error}); replace it yourself") from error
    return converted.to(next(original.parameters()).device).train(original.training)


_HOOKS = (
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_backward_pre_hooks",
    "_backward_hooks",
    "_is_full_backward_hook",
)


def _share_hooks(original: nn.Module, converted: nn.Module) -> None:
    """Gives the hooks of a module and its submodules to those of the converted one; the handles that remove them remain valid."""
    ours = dict(converted.named_modules())
    for name, module in original.named_modules():
        if name in ours:
            for hooks in _HOOKS:
                setattr(ours[name], hooks, getattr(module, hooks))
