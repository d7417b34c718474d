"""Autograd of the native ops: reverse mode by their backward ops; all other derivatives raise, none is silently zero."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch._functorch.autograd_function import enable_single_level_autograd_function
from torch.autograd import forward_ad
from torch.autograd.function import _SingleLevelFunction

from dkic.ops.schemas import library


def register(op: str, backward: Callable, setup_context: Callable) -> None:
    """Give dkic::`op` a reverse-mode derivative.

    Args:
        op: an op of one overload, whose backward op is `<op>_backward`; that one gets no derivative.
        backward, setup_context: as for `torch.library.register_autograd`.

    Forward mode (`torch.func.jvp`, dual tensors) and second derivatives raise NotImplementedError. (An op registered with
    `torch.library.register_autograd` drops tangents without an error: its result has the tangent 0.)
    """
    _register(op, backward, setup_context)
    _register(f"{op}_backward", _no_second_derivative(op), None)


def is_plain_call(*tensors: Tensor | None) -> bool:
    """Whether a call of an op needs nothing of autograd, which takes 10 us of the host's time; never while torch compiles.

    Then `torch._C._AutoDispatchBelowAutograd` saves that time.
    """
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    return not _is_differentiated(tensors)


def has_tangent(*tensors: Tensor | None) -> bool:
    """Whether forward-mode differentiation is under way for one of the tensors."""
    if forward_ad._current_level < 0:
        return False
    return any(t is not None and forward_ad.unpack_dual(t).tangent is not None for t in tensors)


def no_forward_mode(op: str) -> NotImplementedError:
    """The error of an op without a forward-mode derivative."""
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
        raise NotImplementedError(f"dkic.ops.{op} has no second derivative: its backward can't be differentiated.")

    return backward


def _register(op: str, backward: Callable, setup_context: Callable | None) -> None:
    overload = getattr(torch.ops.dkic, op).default
    defaults = [argument.default_value for argument in overload._schema.arguments]

    # torch.autograd.Function refuses to run where torch.func has entered the dispatcher already; its base does not.
    class Function(_SingleLevelFunction):
        @staticmethod
        def forward(ctx, *arguments):
            *inputs, keyset = arguments
            # Outer transforms of torch.func differentiate what this one does.
            with torch._C._AutoDispatchBelowAutograd(), torch.enable_grad(), forward_ad._set_fwd_grad_enabled(True):
                output = overload.redispatch(keyset & torch._C._after_autograd_keyset, *inputs)
            if setup_context is not None:
                setup_context(ctx, inputs, output)
            return output

        @staticmethod
        def backward(ctx, *grads):
            return *backward(ctx, *grads), None  # the last is keyset's

        @staticmethod
        def jvp(ctx, *tangents):
            raise no_forward_mode(op.removesuffix("_backward"))

    def kernel(keyset, *inputs):
        inputs = (*inputs, *defaults[len(inputs) :])  # the dispatcher leaves out trailing arguments that equal their defaults
        if not _is_differentiated(inputs):  # a Function would cost 15 us of the host's time
            with torch._C._AutoDispatchBelowAutograd():
                return overload.redispatch(keyset & torch._C._after_autograd_keyset, *inputs)
        with enable_single_level_autograd_function():
            return Function.apply(*inputs, keyset)

    library.impl(op, kernel, "Autograd", with_keyset=True)
