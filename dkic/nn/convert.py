"""Replaces the deformable convolutions of torchvision, mmcv, InternImage and FlashInternImage in a model by dkic's."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from dkic.nn.dcnv3 import DCNv3
from dkic.nn.dcnv4 import DCNv4
from dkic.nn.deform_conv2d import DeformConv2d, DeformConv2dPack


def _given_offsets(theirs: Any) -> nn.Module:
    return DeformConv2d(*_convolution(theirs))


def _dcnv2_pack(theirs: Any) -> nn.Module:
    return DeformConv2dPack(*_convolution(theirs)[:-1], theirs.deform_groups, theirs.bias is not None)


def _dcnv1_pack(theirs: Any) -> nn.Module:
    return DeformConv2dPack(*_convolution(theirs)[:-1], theirs.deform_groups, bias=False, modulated=False)


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


# By the package and the name of their class, which need not be installed.
_CONVERSIONS: dict[tuple[str, str], Callable[[Any], nn.Module]] = {
    ("torchvision", "DeformConv2d"): _given_offsets,
    ("mmcv", "DeformConv2d"): _given_offsets,
    ("mmcv", "ModulatedDeformConv2d"): _given_offsets,
    ("mmcv", "DeformConv2dPack"): _dcnv1_pack,
    ("mmcv", "ModulatedDeformConv2dPack"): _dcnv2_pack,
}
# InternImage's repositories import theirs from a folder of any name (ops_dcnv3, DCNv4, models ...).
_CONVERSIONS_BY_NAME = {"DCNv3": _dcnv3, "DCNv3_pytorch": _dcnv3, "DCNv4": _dcnv4}


def convert(model: nn.Module) -> nn.Module:
    """The model with its deformable convolutions replaced in place by dkic's; a new module if model itself is one.

    Replaced are torchvision's `DeformConv2d`; mmcv's `DeformConv2d`, `ModulatedDeformConv2d`, `DeformConv2dPack` and
    `ModulatedDeformConv2dPack`; `DCNv3` and `DCNv3_pytorch` of InternImage; `DCNv4` of FlashInternImage. Parameters are the same
    objects as before, so an optimizer keeps working; mode, dtype and device stay. Hooks of the replaced modules are lost.

    Raises:
        ValueError: a module has a geometry that dkic does not support, or is another class of the same name; the message names
            it.
    """
    replaced: dict[nn.Module, nn.Module] = {}
    for path, module in list(model.named_modules(remove_duplicate=False)):
        make = _conversion(module)
        if make is None:
            continue
        if module not in replaced:
            replaced[module] = _with_parameters_of(module, make, path or "model")
        if not path:
            return replaced[module]
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, replaced[module])
    return model


def _conversion(m: nn.Module) -> Callable[[Any], nn.Module] | None:
    package, name = type(m).__module__.split(".")[0], type(m).__name__
    return None if package == "dkic" else _CONVERSIONS.get((package, name)) or _CONVERSIONS_BY_NAME.get(name)


def _with_parameters_of(theirs: nn.Module, make: Callable[[Any], nn.Module], path: str) -> nn.Module:
    try:
        with torch.random.fork_rng(devices=[]):  # the caller's random numbers are not changed by an initialization for nothing
            ours = make(theirs)
        ours.load_state_dict(theirs.state_dict(keep_vars=True), assign=True)
    except (AttributeError, RuntimeError, ValueError) as error:
        known = f"{type(theirs).__module__}.{type(theirs).__qualname__}"
        raise ValueError(f"convert: {path} ({known}) can't be converted ({error}); replace it yourself") from error
    return ours.to(next(theirs.parameters()).device).train(theirs.training)
