"""Quantized layers: their three states, and operations on networks of them.

An entropy network must compute the same values on every machine. In a quantized network, weights and activations are integers
in ordinary float tensors: |weight| <= 127, |activation| <= 255, which half types and TF32 represent exactly. Sums stay below
2^24, so every order of summation gives the same result. This is checked for each filter when a network is converted; a filter
with larger sums is split along its input channels, and the parts are added as int32. Then follow the integer bias, one float32
multiplication rounded half to even, and a clamp. There are no logarithms, and no divisions except by powers of two.
docs/quantized.md contains the complete argument.

    with calibrate(network):        # 1. activation scales, from the largest values seen
        network(x)
    prepare(network)                # 2. optional: quantization-aware training; rounding passes gradients straight through
    convert(network)                # 3. integers only, bounds checked
    load(other, state_dict)         # or a float network of the same shape, from the state dict of a converted one
"""

import contextlib
import enum
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from dkic.errors import DkicError
from dkic.nn.constant_buffers import ConstantBuffers, keeping_dtype
from dkic.quantized.activation_scale import ActivationScale

if TYPE_CHECKING:
    from typing_extensions import Self


class State(enum.Enum):
    """State of a quantized layer."""

    FLOAT = "float"  # initial state: real numbers
    PREPARED = "prepared"  # computes with integers from float parameters, which can be trained
    CONVERTED = "converted"  # contains only integers, as in a weights file


class QuantizedLayer(ConstantBuffers):
    """Base class of layers that are bit-exact after conversion.

    A layer with tensors overrides `integers`, `shapes`, `check_bounds` and `dequantize_from`; a layer without tensors, whose
    forward only depends on the state, overrides none.

    Class attributes:
        stored: names and dtypes of the tensors that the converted layer holds.
        replaced: names of the float parameters that conversion deletes, in addition to those named in `stored`.
        needs_scales: whether `dequantize_from` needs scales that other layers' `dequantize_from` set.
    """

    stored: ClassVar[Mapping[str, torch.dtype]] = MappingProxyType({})
    replaced: ClassVar[tuple[str, ...]] = ()
    needs_scales: ClassVar[bool] = False
    state: State = State.FLOAT

    @property
    def is_float(self) -> bool:
        return self.state is State.FLOAT

    @property
    def converted(self) -> bool:
        return self.state is State.CONVERTED

    def integers(self) -> dict[str, Tensor]:
        """The tensors of `stored`, in float32, from the float parameters; differentiable."""
        return {}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the tensors of `stored`."""
        return {}

    def check_bounds(self) -> None:
        """Raises DkicError if the stored tensors violate a bound of exact arithmetic."""

    def dequantize_from(self, other: "Self") -> None:
        """Sets the float parameters from a converted layer of the same shape."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Self":
        """Outside the float state, `half()`, `double()` and `to(dtype)` change no dtype: rounded multipliers would be others."""
        return super()._apply(fn if self.is_float else keeping_dtype(fn), recurse)

    def _hold(self, tensors: Mapping[str, Tensor]) -> None:
        for name in {*tensors, *self.replaced} & self._parameters.keys():
            delattr(self, name)
        for name, t in tensors.items():
            self.register_buffer(name, t.detach().to(self.stored[name]).contiguous())
        self.state = State.CONVERTED


def in_exact_type(x: Tensor) -> Tensor:
    """x in float32 or float64, which hold the sums of a quantized layer; half types round them."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def quantized_layers(network: nn.Module) -> dict[str, QuantizedLayer]:
    """The quantized layers of a network, by name."""
    return {name: m for name, m in network.named_modules() if isinstance(m, QuantizedLayer)}


def stored_names(network: nn.Module) -> list[str]:
    """State dict keys of the tensors that converted layers hold; empty for a network that is not converted."""
    return [_key(name, key) for name, m in quantized_layers(network).items() if m.converted for key in m.stored]


@contextlib.contextmanager
def calibrate(network: nn.Module) -> Iterator[None]:
    """Context manager: activation scales record the largest values inside, and are set from them at the end.

    If the block raises, the scales are unchanged.
    """
    scales = [module for module in network.modules() if isinstance(module, ActivationScale)]
    for scale in scales:
        scale.start_recording()
    try:
        yield
    except BaseException:
        for scale in scales:
            scale.stop_recording()
        raise
    for scale in scales:
        scale.set_from_recorded()


def prepare(network: nn.Module) -> None:
    """Switches a calibrated network to the prepared state, in place: quantization-aware training.

    Raises DkicError if it is converted.
    """
    _check_not_converted(network)
    for layer in quantized_layers(network).values():
        layer.state = State.PREPARED


@torch.no_grad()
def convert(network: nn.Module) -> None:
    """Converts the quantized layers of a calibrated network to integers, in place. Other layers, such as `LDCNBlock`, stay float.

    Raises DkicError that names the layer if a bound is violated or the layer is already converted.
    """
    _check_not_converted(network)
    _convert(network, {layer: layer.integers() for layer in quantized_layers(network).values()})
    _check_bounds(network)


def converted_state(network: nn.Module) -> dict[str, Tensor]:
    """The state dict that a float network will have once converted, with its integers on the meta device."""
    state: dict[str, Tensor] = dict(network.state_dict())
    for name, module in network.named_modules(remove_duplicate=False):
        if isinstance(module, ActivationScale):
            state.pop(_key(name, "scale"), None)
    for name, layer in quantized_layers(network).items():
        for key in (*layer.stored, *layer.replaced):
            state.pop(_key(name, key), None)
        state |= {_key(name, key): torch.empty(s, dtype=layer.stored[key], device="meta") for key, s in layer.shapes().items()}
    return state


@torch.no_grad()
def load(network: nn.Module, state_dict: Mapping[str, Tensor], strict: bool = True, assign: bool = False) -> None:
    """Converts a float network to the integers in the state dict of a converted one, in place, and loads its other tensors.

    Args:
        network: float, of the same shape; calibration is not needed.
        state_dict: of the converted network.
        strict, assign: as in `torch.nn.Module.load_state_dict`; the tensors in `stored` are required in any case.

    Raises:
        DkicError: network is converted, or state_dict lacks a tensor of a quantized layer, has it in another dtype, or violates a
            bound of exact arithmetic. The message names the layer.
        RuntimeError: another tensor does not fit, as in `load_state_dict`.
    """
    _check_not_converted(network)
    empty: dict[QuantizedLayer, dict[str, Tensor]] = {}
    for name, layer in quantized_layers(network).items():
        held = next((t.device for t in (*layer.parameters(), *layer.buffers())), None)
        device = torch.device("meta") if assign else held
        for key in layer.stored:
            given = state_dict.get(_key(name, key))
            if given is None:
                raise DkicError(f"load/state_dict: has no {_key(name, key)}; give the state dict of a converted network")
            if given.dtype != layer.stored[key]:
                raise DkicError(f"load/state_dict: {_key(name, key)} has dtype {given.dtype}; give {layer.stored[key]}")
        empty[layer] = {key: torch.empty(s, dtype=layer.stored[key], device=device) for key, s in layer.shapes().items()}
    _convert(network, empty)
    # CompressAI's models override load_state_dict without `assign`.
    network.load_state_dict(state_dict, strict=strict, **({"assign": True} if assign else {}))
    _check_bounds(network)


@torch.no_grad()
def dequantize(converted: nn.Module, network: nn.Module) -> None:
    """Sets the parameters and activation scales of a float network from a converted network of the same shape.

    A scale that cancels out between layers is arbitrary; it is set to 1/64, so that 255 units are 4.
    """
    for module in network.modules():
        if isinstance(module, ActivationScale) and not module.given:
            module.scale.fill_(1 / 64)
    pairs = list(zip(quantized_layers(network).values(), quantized_layers(converted).values(), strict=True))
    for layer, other in sorted(pairs, key=lambda pair: pair[0].needs_scales):  # layers that set scales come first
        layer.dequantize_from(other)


def _key(layer: str, tensor: str) -> str:
    """State dict key; the name of a network that is itself a layer is empty."""
    return f"{layer}.{tensor}" if layer else tensor


def _check_bounds(network: nn.Module) -> None:
    """Raises DkicError that names the layer if the integers of a converted network violate a bound."""
    for name, layer in quantized_layers(network).items():
        try:
            layer.check_bounds()
        except DkicError as error:
            raise DkicError(f"{name or 'network'}: {error}") from None


def _check_not_converted(network: nn.Module) -> None:
    for name, layer in quantized_layers(network).items():
        if layer.converted:
            raise DkicError(f"{name or 'network'}: is converted and has no float parameters; dequantize it into a float network")


def _convert(network: nn.Module, tensors: dict[QuantizedLayer, dict[str, Tensor]]) -> None:
    for layer, held in tensors.items():
        layer._hold(held)
    for module in network.modules():
        if isinstance(module, ActivationScale):
            module.forget()


def check_multiplier(multiplier: Tensor) -> None:
    """Raises DkicError if a multiplier is negative or not finite."""
    if not (multiplier.isfinite().all() and (multiplier >= 0).all()):
        raise DkicError("multiplier: must be finite and at least 0")
