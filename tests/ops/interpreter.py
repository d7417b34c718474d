"""Triton's interpreter without the work that changes no result: three times as fast. The interpreted_*.py files import it.

* Every addition and multiplication of int32 is repeated in int64 for `device_assert`, which then does nothing, as `debug` is off:
  more than half of the time.
* Every call of a device function sets some 200 attributes of `triton.language`, which the launch has set already: a third.
* The NumPy dtype of a Triton type is looked up in a table that is built anew each time.
"""

import dataclasses
import functools
import inspect
from types import ModuleType

import numpy as np
import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.interpreter import InterpretedFunction, InterpreterError

builder = interpreter.interpreter_builder
assert not builder.options.debug
builder.options = dataclasses.replace(builder.options, sanitize_overflow=False)

dtype_of_scalar = functools.cache(interpreter._get_np_dtype)


def dtype_of(type: tl.dtype) -> np.dtype:
    """As `_get_np_dtype`; types of pointers and blocks can't be hashed."""
    return np.dtype(np.uint64) if isinstance(type.scalar, tl.pointer_type) else dtype_of_scalar(type.scalar)


interpreter._get_np_dtype = dtype_of


@functools.cache
def languages_of(function: InterpretedFunction) -> list[ModuleType]:
    """The modules that Triton patches for a function."""
    return [value for value in function.fn.__globals__.values() if inspect.ismodule(value) and value in (tl, tl.core)]


def call(self: InterpretedFunction, *args, **kwargs):
    # At the end of a launch its kernel's language is as before; `load` is a builtin then.
    if any(tl.core.is_builtin(language.load) for language in languages_of(self)):
        interpreter._patch_lang(self.fn)
    try:
        return self.rewrite()(*args, **kwargs)
    except Exception as e:
        raise InterpreterError(repr(e)) from e


InterpretedFunction.__call__ = call
