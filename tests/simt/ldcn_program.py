"""Runs ldcn's CUDA kernels on the emulator, in a subprocess: tensors in, tensors out."""

import os
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

import torch
from ops.op_cases import LdcnCase
from simt.traffic_counts import Counts, parse
from torch import Tensor

TYPES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}
ORDERS = {"forward": 0, "reverse": 1, "shuffled": 2}


@dataclass(frozen=True)
class Results:
    vector: int  # channels per vector access, in the forward
    warp_forward: bool  # whether the forward uses a warp kernel
    warp_samples: bool  # whether the gradients of offset and mask use a warp kernel
    window_scatter: bool  # whether the gradient of x uses the window kernel
    tensors: list[Tensor]  # y, then the gradients of x, offset and mask (if present)
    fixed: Tensor  # the gradient of x from integer sums


def _memory(t: Tensor) -> bytes:
    """The memory from the first to the last element of a tensor, including gaps."""
    last = sum((size - 1) * stride for size, stride in zip(t.shape, t.stride(), strict=True))
    flat = t.as_strided((last + 1 if t.numel() else 0,), (1,))
    return flat.contiguous().view(torch.uint8).numpy().tobytes()


def _packed(t: Tensor | None, lead: int) -> bytes:
    if t is None:
        return struct.pack("7q", 0, 0, 0, 0, 0, 0, 0)
    memory = _memory(t)
    return struct.pack("7q", TYPES[t.dtype], *t.stride(), lead, len(memory)) + memory


def _call(
    program: Path,
    case: LdcnCase,
    tensors: tuple[Tensor | None, ...],
    grad_y: Tensor,
    *arguments: str,
    order: str,
    blocks: int = 2**40,
    lead: int = 0,
    vector_atomics: bool = True,
) -> bytes:
    """Standard output of the program."""
    x, offset, mask = tensors
    sizes = (case.batch, case.channels, case.height, case.width, case.groups, *case.out_size)
    geometry = (number for pair in case.geometry.values() for number in pair)
    problem = struct.pack("18q", *sizes, *geometry, ORDERS[order], blocks, vector_atomics)
    problem += _packed(x, lead) + _packed(offset, 0) + _packed(mask, 0) + _packed(grad_y, 0)
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
    done = subprocess.run([program, *arguments], input=problem, capture_output=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def _split(output: bytes, likes: list[Tensor], layout: torch.memory_format) -> list[Tensor]:
    """Converts output to tensors with the dtypes and shapes of others."""
    written, at, tensors = bytearray(output), 0, []
    for like in likes:
        n, c, h, w = like.shape
        size = like.numel() * like.itemsize
        values = torch.frombuffer(written[at : at + size], dtype=like.dtype) if size else like.new_empty(0)
        at += size
        nhwc = layout == torch.channels_last
        tensors.append(values.view(n, h, w, c).permute(0, 3, 1, 2) if nhwc else values.view(like.shape))
    assert at == len(written)
    return tensors


def run(
    program: Path, case: LdcnCase, tensors: tuple[Tensor | None, ...], grad_y: Tensor, *, order: str, **options: int
) -> Results:
    """The channel strides of x and grad_y must be 1.

    blocks: at most so many a launch. lead: x begins so many elements after an aligned address. vector_atomics: whether the GPU
    has them, as from compute capability 9.0 on.
    """
    x, offset, mask = tensors
    output = _call(program, case, tensors, grad_y, order=order, **options)
    vector, *special = struct.unpack_from("4i", output)
    masks = [] if mask is None else [mask]
    y, grad_offset, *grad_mask, grad_x, fixed = _split(output[16:], [grad_y, offset, *masks, x, x], torch.channels_last)
    return Results(vector, *map(bool, special), [y, grad_x, grad_offset, *grad_mask], fixed)


def run_plain(program: Path, case: LdcnCase, tensors: tuple[Tensor, Tensor, Tensor], grad_y: Tensor) -> list[Tensor]:
    """y and the gradients of x, offset and mask from plain_main.cpp. All tensors are in NCHW; all but x and grad_y float32."""
    x, offset, mask = tensors
    output = _call(program, case, tensors, grad_y, order="shuffled")
    y, grad_offset, grad_mask, grad_x = _split(output, [grad_y, offset, mask, x.float()], torch.contiguous_format)
    return [y, grad_x, grad_offset, grad_mask]


def count(
    program: Path, case: LdcnCase, tensors: tuple[Tensor | None, ...], grad_y: Tensor, **options: int
) -> dict[tuple[str, str, str], Counts]:
    """Global memory traffic of the kernels, by kernel, tensor and kind (load, store, atomic)."""
    return parse(_call(program, case, tensors, grad_y, "count", order="forward", **options).decode())
