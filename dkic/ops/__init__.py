"""Custom kernels for learned image codecs, with autograd and `torch.compile`.

```python
from dkic.ops import deform_conv2d, gaussian_likelihood, gaussian_symbols, ldcn
```
"""

# A function takes the name of the module that defines it: `import dkic.ops.ldcn; dkic.ops.ldcn(x, ...)` calls it too.
# Imported for what they register: rules for torch.vmap, and the fakes of internal ops.
from dkic.ops import batching, cdf_coder, exact_conv2d, raster_context, requantize  # noqa: F401
from dkic.ops.backends import set_backend
from dkic.ops.deform_conv2d import deform_conv2d
from dkic.ops.factorized_likelihood import factorized_likelihood
from dkic.ops.gaussian_indexes import gaussian_indexes
from dkic.ops.gaussian_likelihood import gaussian_likelihood
from dkic.ops.gaussian_symbols import gaussian_symbols
from dkic.ops.ldcn import ldcn

__all__ = [
    "deform_conv2d",
    "factorized_likelihood",
    "gaussian_indexes",
    "gaussian_likelihood",
    "gaussian_symbols",
    "ldcn",
    "set_backend",
]
