"""Autograd of the native ops: reverse mode calls their backward ops; all other derivatives raise NotImplementedError."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch._functorch.autograd_function import enable_single_level_autograd_function
from torch.autograd import forward_ad
from torch.autograd.function import _SingleLevelFunction

from dkic.ops.schemas import library


def register(op: str, backward: Callable, setup_context: Callable) -> None:
    """Registers the reverse-mode derivative of dkic::`op`.

    Args:
        op: an op with one overload. Its backward op, `<op>_backward`, is not differentiable.
        backward, setup_context: as for `torch.library.register_autograd`.

    Forward mode (`torch.func.jvp`, dual tensors) and second derivatives raise NotImplementedError. (An op registered with
    `torch.library.register_autograd` silently drops tangents.)
    """
    _register(op, backward, setup_context)
    _register(f"{op}_backward", _no_second_derivative(op), None)


def is_plain_call(*tensors: Tensor | None) -> bool:
    """Whether a call can skip autograd with `torch._C._AutoDispatchBelowAutograd`, which saves 10 us on the host.

    False during compilation.
    """
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    return not _is_differentiated(tensors)


def has_tangent(*tensors: Tensor | None) -> bool:
    """Whether a tensor is a dual tensor of forward-mode differentiation."""
    if forward_ad._current_level < 0:
        return False
    return any(t is not None and forward_ad.unpack_dual(t).tangent is not None for t in tensors)


def no_forward_mode(op: str) -> NotImplementedError:
    """The error for an op without a forward-mode derivative."""
    return NotImplementedError(
        f"dkic.ops.{op} has no forward-mode derivative (torch.func.jvp, torch.func.jacfwd, dual tensors); "
        "use reverse mode: torch.func.vjp, torch.func.jacrev"
    )


def _is_differentiated(inputs: Sequence[object]) -> bool:
    if forward_ad._current_level >= 0:
        return True
    return torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in inputs)


def _no_second_derivative(op: str) -> Callable:
    def backward(ctx, *grads):
        raise NotImplementedError(
            f"dkic.ops.{op} has no second derivative: its backward is not differentiable; call backward without create_graph"
        )

    return backward


def _register(op: str, backward: Callable, setup_context: Callable | None) -> None:
    overload = getattr(torch.ops.dkic, op).default
    defaults = [argument.default_value for argument in overload._schema.arguments]

    # torch.autograd.Function raises inside a torch.func transform that is already dispatched; its base class does not.
    class Function(_SingleLevelFunction):
        @staticmethod
        def forward(ctx, *arguments):
            *inputs, keyset = arguments
            # Outer torch.func transforms differentiate this forward.
            with torch._C._AutoDispatchBelowAutograd(), torch.enable_grad(), forward_ad._set_fwd_grad_enabled(True):
                output = overload.redispatch(keyset & torch._C._after_autograd_keyset, *inputs)
            if setup_context is not None:
                setup_context(ctx, inputs, output)
            return output

        @staticmethod
        def backward(ctx, *grads):
            return *backward(ctx, *grads), None  # None: gradient of keyset

        @staticmethod
        def jvp(ctx, *tangents):
            raise no_forward_mode(op.removesuffix("_backward"))

    def kernel(keyset, *inputs):
        inputs = (*inputs, *defaults[len(inputs) :])  # the dispatcher omits trailing arguments that equal their defaults
        if not _is_differentiated(inputs):  # Function.apply takes 15 us on the host
            with torch._C._AutoDispatchBelowAutograd():
                return overload.redispatch(keyset & torch._C._after_autograd_keyset, *inputs)
        with enable_single_level_autograd_function():
            return Function.apply(*inputs, keyset)

    library.impl(op, kernel, "Autograd", with_keyset=True)
