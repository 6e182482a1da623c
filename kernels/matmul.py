"""The three matrix products of the head, each into a given buffer, for tiles of any logits dtype.

    logits [C, V] = hidden [C, D] @ weight [V, D]^T (+ bias)
    hidden_grad [C, D] = dlogits [C, V] @ weight;   weight_grad [V, D] += dlogits^T @ hidden
The weight gradient is summed in the dtype of its buffer (float32 for half inputs). Where operands
and result differ in dtype: cuBLAS float32 output on CUDA, blocks of the vocabulary elsewhere.
"""

import torch
from torch import Tensor

_BLOCK = 4096  # vocabulary rows upcast at a time where no mixed-dtype product exists
_LOGITS_BLOCK = 1024  # of logits: an engine has few hidden rows, so the upcast rows stay in cache
_COLUMNS = 1024  # of one product in a batch on the CPU


def logits_into(tile: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """tile [C, V] = hidden @ weight^T + bias."""
    if tile.dtype == weight.dtype:
        if bias is None and tile.device.type == "cpu" and tile.dtype == torch.float32:
            _batched_logits_into(tile, hidden, weight)
        elif bias is None:
            torch.mm(hidden, weight.t(), out=tile)
        else:
            torch.addmm(bias, hidden, weight.t(), out=tile)
        return
    if tile.is_cuda:
        torch.mm(hidden, weight.t(), out_dtype=tile.dtype, out=tile)
    else:
        wide = hidden.to(tile.dtype)
        for block in _blocks(weight, _LOGITS_BLOCK):
            tile[:, block] = wide @ weight[block].to(tile.dtype).t()
    if bias is not None:
        tile += bias


def head_logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """logits [..., V] = hidden [..., D] @ weight^T (+ bias) in `dtype`, not differentiable."""
    logits = hidden.new_empty(*hidden.shape[:-1], weight.shape[0], dtype=dtype)
    logits_into(logits.flatten(end_dim=-2), hidden.flatten(end_dim=-2), weight, bias)
    return logits


def _batched_logits_into(tile: Tensor, hidden: Tensor, weight: Tensor) -> None:
    """tile = hidden @ weight^T in batches of narrow products and a copy.

    MKL is slow at the one wide product (seen with AVX2), and a thread team per narrow product would
    wait for its slowest member some hundred times a tile.
    """
    rows, width = hidden.shape
    count = max(4, torch.get_num_threads())
    step = count * _COLUMNS
    end = weight.shape[0] // step * step
    products = hidden.new_empty(count, rows, _COLUMNS) if end else None
    for start in range(0, end, step):
        part = weight[start : start + step].view(count, _COLUMNS, width)
        torch.bmm(hidden.expand(count, rows, width), part.transpose(1, 2), out=products)
        block = tile[:, start : start + step].unflatten(1, (count, _COLUMNS))
        block.copy_(products.transpose(0, 1))
    if end < weight.shape[0]:
        torch.mm(hidden, weight[end:].t(), out=tile[:, end:])


def hidden_grad(dlogits: Tensor, weight: Tensor) -> Tensor:
    """dlogits [C, V] @ weight [V, D], in the dtype of weight."""
    if dlogits.dtype == weight.dtype:
        return torch.mm(dlogits, weight)
    if dlogits.is_cuda:
        return torch.mm(dlogits.to(weight.dtype), weight)
    total = dlogits.new_zeros(dlogits.shape[0], weight.shape[1])
    for block in _blocks(weight):
        total.addmm_(dlogits[:, block], weight[block].to(dlogits.dtype))
    return total.to(weight.dtype)


def weight_grad_(grad: Tensor, dlogits: Tensor, hidden: Tensor, *, overwrite: bool) -> None:
    """grad [V, D] = or += dlogits [C, V]^T @ hidden [C, D]."""
    if overwrite and grad.device.type == "cpu":
        # Touching fresh pages in the products' own threads costs more than zeros and a sum.
        grad.zero_()
        overwrite = False
    beta = 0 if overwrite else 1
    if grad.dtype == dlogits.dtype == hidden.dtype:
        grad.addmm_(dlogits.t(), hidden, beta=beta)
    elif grad.is_cuda:
        half = dlogits.to(hidden.dtype).t()
        torch.addmm(grad, half, hidden, out_dtype=grad.dtype, beta=beta, out=grad)
    else:
        wide = hidden.to(grad.dtype)
        for block in _blocks(grad):
            grad[block].addmm_(dlogits[:, block].to(grad.dtype).t(), wide, beta=beta)


def bias_grad_(grad: Tensor, dlogits: Tensor, *, overwrite: bool) -> None:
    """grad [V] = or += the column sums of dlogits [C, V], summed in the dtype of grad."""
    total = dlogits.sum(dim=0, dtype=grad.dtype)
    grad.copy_(total) if overwrite else grad.add_(total)


def _blocks(matrix: Tensor, size: int = _BLOCK) -> list[slice]:
    return [slice(start, start + size) for start in range(0, matrix.shape[0], size)]
