"""What goes into the linear operations and what travels through them: types that check themselves.

A constructor raises ValueError with name, expected and got; below it nothing is checked again.
    Head         the vocabulary projection and how its logits are read
    TokenInputs  hidden rows and one number a token each: target, weight, side inputs
    TokenRows -> TokenTerms   the form of a token-local loss: kernels/tokens.py
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from nsr_fast.kernels.rows import RowStats, RowTile, resolve_backend, row_pass_, text
from nsr_fast.kernels.tokens import SIDES, TermsFn, TokenRows, TokenTerms

__all__ = ["SIDES", "Head", "TermsFn", "TokenInputs", "TokenRows", "TokenTerms"]
MaskLogits = Callable[[Tensor | slice, Tensor], None]
_FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_SINGLE = torch.finfo(torch.float32)


class Shard(Protocol):
    """One process's part of a head that several hold: kernels/vocab_parallel.py."""

    classes: int  # rows of the whole head

    def row_pass_(
        self,
        head: "Head",
        logits: Tensor,
        target: Tensor,
        c: Tensor | None,
        e: Tensor | None,
        saved: tuple[Tensor, Tensor] | None,
    ) -> RowStats | None:
        """Head.row_pass_ on this part's columns, with the statistics of the whole row."""

    def add_up_(self, grad_hidden: Tensor) -> None:
        """Sum the hidden gradient over the processes, in place."""


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """The vocabulary projection and how its logits are read.

    weight        [V, D]  contiguous; bias [V] of its dtype
    temperature, softcap  u = softcap * tanh(x / softcap) / temperature
    logits_dtype  None: that of weight; torch.float32: logits kept and read in float32
    backend       "auto" or a name; resolved here
    chunk_rows    rows of one logits tile; None: chosen by size
    vocab         number of valid rows: those from here on are padding that no token uses. They are
                  never computed, have no probability, and their gradient is zero
    shard         the rows of weight are part of a head that several processes hold
    """

    weight: Tensor
    bias: Tensor | None = None
    temperature: float = 1.0
    softcap: float | None = None
    logits_dtype: torch.dtype | None = None
    backend: str = "auto"
    chunk_rows: int | None = None
    vocab: int | None = None
    shard: Shard | None = None

    def __post_init__(self) -> None:
        weight = self.weight
        _check_matrix("weight", weight)
        if len(weight) == 0:
            raise ValueError(f"weight: expected [V, D] with V >= 1, got {text(weight)}")
        _check_bias(self.bias, weight)
        _check_positive("temperature", self.temperature)
        if self.softcap is not None:
            _check_positive("softcap", self.softcap)
        dtype = weight.dtype if self.logits_dtype is None else self.logits_dtype
        if dtype not in (torch.float32, weight.dtype):
            want = f"float32 or {weight.dtype} (that of hidden)"
            raise ValueError(f"logits_dtype: expected {want}, got {dtype}")
        _check_count("chunk_rows", self.chunk_rows, 2**63 - 1)
        _check_count("vocab", self.vocab, len(weight))
        backend = resolve_backend(self.backend, weight.device, dtype)
        object.__setattr__(self, "logits_dtype", dtype)
        object.__setattr__(self, "backend", backend)

    @property
    def valid(self) -> tuple[Tensor, Tensor | None]:
        """weight [v, D] and bias [v] without the padding."""
        keep = slice(self.vocab)
        return self.weight[keep], None if self.bias is None else self.bias[keep]

    @property
    def classes(self) -> int:
        """Number of tokens that can have a probability; every target lies below it."""
        return self.shard.classes if self.shard is not None else self.vocab or len(self.weight)

    @property
    def dtype(self) -> torch.dtype:
        """That of statistics and losses: float32, float64 for float64 logits."""
        return torch.promote_types(self.logits_dtype, torch.float32)

    def check_hidden(self, hidden: Tensor) -> None:
        """hidden [T, D] goes with this head."""
        weight, width = self.weight, hidden.shape[1]
        if weight.shape[1] != width or weight.device != hidden.device:
            want = f"[V, D]=[V, {width}] on {hidden.device} like hidden"
            raise ValueError(f"weight: expected {want}, got {text(weight)}")
        if weight.dtype != hidden.dtype:
            got = f"{weight.dtype}; cast one of them or use torch.autocast"
            raise ValueError(f"weight: expected {hidden.dtype} like hidden, got {got}")

    def row_pass_(
        self,
        logits: Tensor,
        target: Tensor,
        c: Tensor | None = None,
        e: Tensor | None = None,
        saved: tuple[Tensor, Tensor] | None = None,
    ) -> RowStats | None:
        """rows.row_pass_ over a tile [C, v] of this head's logits; over all shards of its rows."""
        if self.shard is not None:
            return self.shard.row_pass_(self, logits, target, c, e, saved)
        return row_pass_(self.tile(logits, target), c, e, saved=saved)

    def tile(self, logits: Tensor, target: Tensor, backend: str | None = None) -> RowTile:
        return RowTile(logits, target, self.temperature, self.softcap, backend or self.backend)


@dataclass(frozen=True, slots=True, eq=False)
class TokenInputs:
    """What the loss reads of each token.

    hidden        [T, D]  contiguous
    target        [T]     int64
    token_weight  [T]     signed; 0 skips the row. It may live on the CPU while hidden does not
    and the side inputs of TokenRows, each [T] or None
    mask_logits   called with the places of a chunk's rows and its logits tile [C, v], where it may
                  set logits to -inf: tokens without a probability, and without a gradient
    """

    hidden: Tensor
    target: Tensor
    token_weight: Tensor
    old_logprob: Tensor | None = None
    sampler_logprob: Tensor | None = None
    ref_logprob: Tensor | None = None
    entropy_share: Tensor | None = None
    sequence_ratio: Tensor | None = None
    factor: Tensor | None = None
    mark: Tensor | None = None
    scale: Tensor | None = None
    mask_logits: MaskLogits | None = None

    def __post_init__(self) -> None:
        check_rows(self.hidden, self.target)
        for name in ("token_weight", *SIDES):
            x, device = getattr(self, name), self.hidden.device
            if x is None:
                continue
            if name == "token_weight" and x.device.type == "cpu":
                device = x.device
            if x.shape != self.target.shape or not x.is_floating_point() or x.device != device:
                want = f"[T]={list(self.target.shape)} float32 on {device}"
                raise ValueError(f"{name}: expected {want}, got {text(x)}")

    def check(self, head: Head, terms: "TermsFn | None") -> None:
        """The head takes them, and terms is a callable whose side inputs are here."""
        head.check_hidden(self.hidden)
        check_range(self.target, head.classes, self.token_weight != 0)
        if terms is not None and (not callable(terms) or isinstance(terms, type)):
            raise ValueError(f"surrogate: expected None or a callable, got {terms!r}")
        if self.mask_logits is not None and (head.softcap is not None or head.shard is not None):
            raise ValueError("mask_logits: expected None with a softcap or a sharded head")
        for name in getattr(terms, "needs", ()):
            if getattr(self, name) is None:
                raise ValueError(f"{name}: expected [T], got None; {terms!r} reads it")


def inputs_of(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    token_weight: Tensor,
    *,
    bias: Tensor | None,
    side: dict[str, Tensor | None],
    **reading: object,
) -> tuple[Head, TokenInputs]:
    """The arguments of linear_policy_loss as types; side by SIDES, reading as Head takes it."""
    required = {"hidden": hidden, "weight": weight, "target": target, "token_weight": token_weight}
    check_tensors(required, {"bias": bias, **side})
    hidden, weight, bias = cast_for_autocast(hidden, weight, bias)
    return Head(weight, bias, **reading), TokenInputs(hidden, target, token_weight, **side)


def check_tensors(required: dict[str, Tensor], optional: dict[str, Tensor | None]) -> None:
    """Every value a tensor; those of `optional` may be None."""
    for name, x in {**required, **optional}.items():
        if not isinstance(x, Tensor) and not (x is None and name not in required):
            raise ValueError(f"{name}: expected a tensor, got {type(x).__name__}")


def cast_for_autocast(
    hidden: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """hidden, weight and bias as torch.nn.functional.linear sees them: cast when autocast is on."""
    kind = hidden.device.type
    is_on = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    if not is_on or hidden.dtype == torch.float64:
        return hidden, weight, bias
    dtype = torch.get_autocast_dtype(kind)
    return hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)


def check_rows(hidden: Tensor, target: Tensor) -> None:
    """hidden [T, D] and target [T] int64, whose values check_range looks at."""
    _check_matrix("hidden", hidden)
    tokens, device = hidden.shape[0], hidden.device
    if target.shape != (tokens,) or target.dtype != torch.int64 or target.device != device:
        raise ValueError(f"target: expected [T]=[{tokens}] int64 on {device}, got {text(target)}")


def check_range(target: Tensor, classes: int, is_active: Tensor | None = None) -> None:
    """Values of the targets of active rows; on the CPU only, where looking costs nothing."""
    if target.device.type != "cpu" or target.numel() == 0:
        return
    is_bad = (target < 0) | (target >= classes)
    if is_active is not None:
        is_bad &= is_active
    if bool(is_bad.any()):
        row = int(is_bad.nonzero()[0])
        got = f"{int(target[row])} in row {row}"
        raise ValueError(f"target: expected values in [0, {classes}), got {got}")


def _check_matrix(name: str, x: Tensor) -> None:
    if x.dim() != 2 or x.dtype not in _FLOATS:
        raise ValueError(f"{name}: expected 2 axes of a floating dtype, got {text(x)}")
    if not x.is_contiguous():
        got = f"strides {x.stride()}; call .contiguous()"
        raise ValueError(f"{name}: expected contiguous rows, got {got}")


def _check_bias(bias: Tensor | None, weight: Tensor) -> None:
    if bias is None:
        return
    if bias.shape != weight.shape[:1] or bias.device != weight.device:
        want = f"[V]={list(weight.shape[:1])} on {weight.device}"
        raise ValueError(f"bias: expected {want}, got {text(bias)}")
    if bias.dtype != weight.dtype:
        raise ValueError(f"bias: expected {weight.dtype} like weight, got {bias.dtype}")


def _check_positive(name: str, value: float) -> None:
    """Above 0 and finite in float32, and so is its inverse (kernels divide by it)."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not (_SINGLE.tiny <= value <= 1.0 / _SINGLE.tiny):
        raise ValueError(f"{name}: expected a finite number > 0, got {value!r}")


def _check_count(name: str, value: int | None, most: int) -> None:
    is_count = isinstance(value, int) and not isinstance(value, bool)
    if value is not None and (not is_count or not 1 <= value <= most):
        bound = "" if most >= 2**62 else f" and <= {most}"
        raise ValueError(f"{name}: expected None or an integer >= 1{bound}, got {value!r}")
