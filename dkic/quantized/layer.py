"""Quantized layers: their three states, and operations on networks of them.

An entropy network must compute the same numbers on every machine. In a quantized network weights and
activations are integers, carried by ordinary float tensors: |weight| <= 127, |activation| <= 255, so that half types and TF32
hold them exactly. Sums stay below 2^24, which is checked for each filter when a network is converted (a filter over that is cut
by its input channels, and its parts are added as int32). So every order of summation gives the same number. Then come the
integer bias, one float32 multiplication rounded half to even, and a clamp. Nothing takes a logarithm, or divides but by powers of
two. docs/quantized.md has the whole argument.

    with calibrating(network):      # 1. activation scales, from the largest numbers seen
        network(x)
    simulate(network)               # 2. optional: train on integers; roundings pass gradients straight through
    convert(network)                # 3. integers alone, bounds checked
"""

import contextlib
import enum
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from dkic.errors import DkicError
from dkic.quantized.activation_scale import ActivationScale

if TYPE_CHECKING:
    from typing_extensions import Self


class State(enum.Enum):
    """Of a quantized layer."""

    FLOAT = "float"  # initial state: real numbers
    SIMULATED = "simulated"  # computes integers from float parameters, which can be trained
    CONVERTED = "converted"  # contains only integers, as in a weights file


class QuantizedLayer(nn.Module):
    """Base class of layers that are bit-exact after conversion.

    A layer with its own tensors overrides integers, shapes, check_bounds and dequantize_from; one that only depends on the state
    overrides none.

    Class attributes:
        stored: names of the tensors that the converted layer holds, with their types.
        replaced: names of the float parameters that they take the place of.
        needs_scales: its float parameters follow from its integers and the scales around it.
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

    def _hold(self, tensors: Mapping[str, Tensor]) -> None:
        for name in {*tensors, *self.replaced} & self._parameters.keys():
            delattr(self, name)
        for name, t in tensors.items():
            self.register_buffer(name, t.detach().to(self.stored[name]).contiguous())
        self.state = State.CONVERTED


def quantized_layers(network: nn.Module) -> dict[str, QuantizedLayer]:
    """Those of a network, by name."""
    return {name: m for name, m in network.named_modules() if isinstance(m, QuantizedLayer)}


def stored_names(network: nn.Module) -> list[str]:
    """Names, in its state_dict, of the tensors that a converted network's layers hold; of any other network none."""
    return [f"{name}.{key}" for name, m in quantized_layers(network).items() if m.converted for key in m.stored]


@contextlib.contextmanager
def calibrating(network: nn.Module) -> Iterator[None]:
    """In it the network's activation scales record the largest numbers that they see; at its end they are set from them.

    Where it ends by an exception, they stay as they were.
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


def simulate(network: nn.Module, enabled: bool = True) -> None:
    """Turns a calibrated network from its float state to the simulated one, or back. Raises DkicError if it is converted."""
    _check_not_converted(network)
    for layer in quantized_layers(network).values():
        layer.state = State.SIMULATED if enabled else State.FLOAT


@torch.no_grad()
def convert(network: nn.Module) -> None:
    """Converts the network's quantized layers to integers, in place. All other layers stay as they are, `LDCNBlock` among them.

    Raises DkicError that names the layer, if a bound is violated, or it is already converted.
    """
    _check_not_converted(network)
    _convert(network, {layer: layer.integers() for layer in quantized_layers(network).values()})
    check_bounds(network)


def convert_empty(network: nn.Module) -> None:
    """The network as `convert` leaves it, its integers on the meta device, to be assigned a file's; see `check_bounds`."""
    layers = quantized_layers(network).values()
    _convert(network, {m: {n: torch.empty(s, dtype=m.stored[n], device="meta") for n, s in m.shapes().items()} for m in layers})


def check_bounds(network: nn.Module) -> None:
    """Raises DkicError that names the layer, if the integers of a converted network violate a bound."""
    for name, layer in quantized_layers(network).items():
        try:
            layer.check_bounds()
        except DkicError as error:
            raise DkicError(f"{name}: {error}") from None


@torch.no_grad()
def dequantize(converted: nn.Module, network: nn.Module) -> None:
    """Gives a float network of the same shape the real numbers that a converted one's integers stand for, and its scales.

    Where a scale only passes through, any serves: 1/64, so that 255 units of it are 4.
    """
    for module in network.modules():
        if isinstance(module, ActivationScale) and not module.given:
            module.scale.fill_(1 / 64)
    pairs = list(zip(quantized_layers(network).values(), quantized_layers(converted).values(), strict=True))
    for layer, other in sorted(pairs, key=lambda pair: pair[0].needs_scales):  # those that set scales come first
        layer.dequantize_from(other)


def _check_not_converted(network: nn.Module) -> None:
    for name, layer in quantized_layers(network).items():
        if layer.converted:
            raise DkicError(f"{name or 'network'}: it is converted, and has no float parameters; dequantize into a float network")


def _convert(network: nn.Module, tensors: dict[QuantizedLayer, dict[str, Tensor]]) -> None:
    for layer, held in tensors.items():
        layer._hold(held)
    for module in network.modules():
        if isinstance(module, ActivationScale):
            module.forget()


def check_multiplier(multiplier: Tensor) -> None:
    """Raises DkicError if it is not quantized."""
    if not (multiplier.isfinite().all() and (multiplier >= 0).all()):
        raise DkicError("a multiplier is not finite, or negative")
