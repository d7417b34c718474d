"""Custom kernels for learned image codecs, with autograd and `torch.compile`.

```python
from dkic.ops import deform_conv2d, gaussian_likelihood, gaussian_symbols, ldcn
```
"""

# Modules of public ops are named with an underscore (_ldcn), so that dkic.ops.ldcn is the function. The modules of the next line
# are imported for what they register: batching rules of torch.vmap, and fake kernels of internal ops.
from dkic.ops import batching, cdf_coder, quantized_conv2d, raster_context, requantize  # noqa: F401
from dkic.ops._deform_conv2d import deform_conv2d
from dkic.ops._explain import explain
from dkic.ops._factorized_likelihood import factorized_likelihood
from dkic.ops._gaussian_indexes import gaussian_indexes
from dkic.ops._gaussian_likelihood import gaussian_likelihood
from dkic.ops._gaussian_symbols import gaussian_symbols
from dkic.ops._ldcn import ldcn
from dkic.ops.backends import set_backend

__all__ = [
    "deform_conv2d",
    "explain",
    "factorized_likelihood",
    "gaussian_indexes",
    "gaussian_likelihood",
    "gaussian_symbols",
    "ldcn",
    "set_backend",
]
