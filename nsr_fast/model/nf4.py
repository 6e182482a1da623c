"""Matrices in 4 bits: NF4 in blocks of 64, the bytes that engine and trainer both read.

    W[i, j] = absmax[i, j // 64] * NF4[code[i, j]]        0.5625 bytes a parameter

NF4: the 16 levels of arXiv 2305.14314. Each row is whole blocks, so that row slices of the bytes
are row slices of the matrix. bitsandbytes quantises and dequantises (on the CPU as on CUDA); absmax
stays float32, not quantised a second time. Checked by tests/model/test_nf4.py.
"""

import logging
from functools import cache

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

BLOCK = 64


def packed_shapes(num_rows: int, num_columns: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Shapes of the bytes (uint8) and of absmax (float32) of a [num_rows, num_columns] matrix.

    Raises ValueError unless the columns are whole blocks.
    """
    if num_columns % BLOCK:
        raise ValueError(f"nf4: expected a multiple of {BLOCK} columns, got {num_columns}")
    return (num_rows, num_columns // 2), (num_rows, num_columns // BLOCK)


@torch.no_grad()
def quantize(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """(bytes [out, in/2] uint8, absmax [out, in/64] float32) of a [out, in] matrix, to nearest."""
    packed, absmax = packed_shapes(*matrix.shape)
    codes, state = _functional().quantize_4bit(
        matrix.contiguous(), blocksize=BLOCK, quant_type="nf4", compress_statistics=False
    )
    return codes.view(packed), state.absmax.view(absmax)


@torch.no_grad()
def dequantize(packed: Tensor, absmax: Tensor, dtype: torch.dtype) -> Tensor:
    """The matrix [out, in] in `dtype`; a new tensor. packed [out, in/2], absmax [out, in/64]"""
    functional = _functional()
    shape = torch.Size((packed.shape[0], packed.shape[1] * 2))
    state = functional.QuantState(
        absmax=absmax.reshape(-1),
        shape=shape,
        code=_levels(packed.device),
        blocksize=BLOCK,
        quant_type="nf4",
        dtype=dtype,
    )
    return functional.dequantize_4bit(packed.reshape(-1, 1), state)


def nf4_linear(x: Tensor, packed: Tensor, absmax: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + bias with a frozen W; differentiable in x, and nothing but the bytes is kept."""
    y = _Nf4Linear.apply(x, packed, absmax)
    return y if bias is None else y + bias


class _Nf4Linear(Function):
    @staticmethod
    def forward(ctx, x: Tensor, packed: Tensor, absmax: Tensor) -> Tensor:
        ctx.save_for_backward(packed, absmax)
        ctx.dtype = x.dtype
        return linear(x, dequantize(packed, absmax, x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        packed, absmax = ctx.saved_tensors
        return grad @ dequantize(packed, absmax, ctx.dtype), None, None


@cache
def _levels(device: torch.device) -> Tensor:
    return _functional().get_4bit_type("nf4", device=device)


@cache
def _functional():
    # on the CPU it advises, at its import, to fetch a kernel that nothing here calls
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    from bitsandbytes import functional

    return functional
