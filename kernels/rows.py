"""The one door to the row kernels: a checked tile of logits, a backend, one pass over each row.

    statistics   RowStats of every row
    gradient     logits overwritten by dL/dlogits, from c = dL/dlogprob and e = dL/dentropy
kernels/rows_reference.py states both formulas. Each backend is one module rows_NAME.py with
reason_unavailable(device or None) -> None or why it cannot work there, and launch(tile, stats,
grad), which fills `stats` unless None and writes the gradient when `grad` is given.
"""

from dataclasses import dataclass
from functools import partial
from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor

_MODULES = {
    "cuda": "nsr_fast.kernels.rows_cuda",
    "triton": "nsr_fast.kernels.rows_triton",
    "cpu": "nsr_fast.kernels.rows_cpu",
    "reference": "nsr_fast.kernels.rows_reference",
}
_PREFERENCE = {"cuda": ("cuda", "triton", "reference"), "cpu": ("cpu", "reference")}
# In the order of the dtype codes of csrc.
_NATIVE = (torch.float32, torch.bfloat16, torch.float16)
_DTYPES = {"cpu": _NATIVE[:2], "cuda": _NATIVE, "triton": _NATIVE}


def text(x: Tensor) -> str:
    """Shape, dtype and device of a tensor, as error messages show them."""
    return f"{list(x.shape)} {str(x.dtype).removeprefix('torch.')} on {x.device}"


def available_backends() -> dict[str, str | None]:
    """Every backend by name: None if it can be used on this machine, else the reason as text."""
    return {name: backend_reason(name, None) for name in _MODULES}


def backend_reason(name: str, device: torch.device | None) -> str | None:
    """None when the backend can work on `device` (anywhere on this machine: None), or why not."""
    try:
        module = row_kernels(name)
    except ImportError as error:
        return f"cannot import {_MODULES[name]}: {error}"
    return module.reason_unavailable(device)


def row_kernels(name: str) -> ModuleType:
    """The module behind a backend's name."""
    return import_module(_MODULES[name])


def resolve_backend(name: str, device: torch.device, dtype: torch.dtype) -> str:
    """The backend that serves logits of `dtype` on `device`.

    "auto" takes the fastest that can. Raises ValueError for an unknown name, a device or a dtype
    the named backend does not take, RuntimeError (with the reason) when it is absent here.
    """
    if name == "auto":
        for candidate in _PREFERENCE.get(device.type, ()):
            if _takes(candidate, dtype) and backend_reason(candidate, device) is None:
                return candidate
        return "reference"
    if not isinstance(name, str) or name not in _MODULES:
        known = ", ".join(["auto", *_MODULES])
        raise ValueError(f"backend: expected one of {known}, got {name!r}")
    if absent := backend_reason(name, None):
        raise RuntimeError(f"backend {name!r} is not available: {absent}")
    if unfit := backend_reason(name, device):
        raise ValueError(f"backend: {name!r} {unfit}")
    if not _takes(name, dtype):
        takes = ", ".join(str(d).removeprefix("torch.") for d in _DTYPES[name])
        cure = "see logits_dtype, or use backend='reference'"
        raise ValueError(f"backend: {name!r} takes logits of {takes}, got {dtype}; {cure}")
    return name


def _takes(name: str, dtype: torch.dtype) -> bool:
    return dtype in _DTYPES.get(name, (dtype,))


@dataclass(frozen=True, slots=True, eq=False)
class RowTile:
    """One tile of logits and how to read it.

    logits   [R, V]  unit stride along V; overwritten when a gradient is wanted
    target   [R]     int64 in [0, V). Looked at for "cpu"; elsewhere a bad one makes its row NaN
    backend  "auto" or a name; force: an instruction set of "cpu", a path of "cuda" (tests)
    """

    logits: Tensor
    target: Tensor
    temperature: float = 1.0
    softcap: float | None = None
    backend: str = "auto"
    force: str = "auto"

    def __post_init__(self) -> None:
        x, y = self.logits, self.target
        object.__setattr__(self, "backend", resolve_backend(self.backend, x.device, x.dtype))
        if x.dim() != 2 or x.shape[1] == 0 or (x.stride(1) != 1 < x.shape[1]):
            got = f"{text(x)} with strides {x.stride()}"
            raise ValueError(f"logits: expected [R, V] with unit stride along V, got {got}")
        rows, vocab = x.shape
        is_vector = y.shape == (rows,) and y.dtype == torch.int64 and y.is_contiguous()
        if not is_vector or y.device != x.device:
            want = f"contiguous [{rows}] int64 on {x.device}"
            raise ValueError(f"target: expected {want}, got {text(y)}")
        if self.backend == "cpu" and rows:
            low, high = int(y.min()), int(y.max())
            if not 0 <= low <= high < vocab:
                raise ValueError(f"target: expected values in [0, {vocab}), got [{low}, {high}]")

    @property
    def dtype(self) -> torch.dtype:
        """That of the arithmetic and of every row vector: float32, float64 for float64 logits."""
        return torch.promote_types(self.logits.dtype, torch.float32)

    @property
    def stride(self) -> int:
        """Elements from one row to the next; a single row may have any stride."""
        return self.logits.stride(0) if self.logits.shape[0] > 1 else self.logits.shape[1]

    def vector(self, name: str, x: Tensor) -> Tensor:
        """x [R] as the kernels read it: contiguous, in the dtype of the arithmetic."""
        if x.shape != self.target.shape or x.device != self.logits.device:
            want = f"{list(self.target.shape)} on {self.logits.device}"
            raise ValueError(f"{name}: expected {want}, got {text(x)}")
        return x.to(self.dtype).contiguous()

    def native(self, make: type, dtype_name: str, **place) -> object:
        """The tile as the compiled module `make` belongs to takes it."""
        return make(
            logits=self.logits.data_ptr(),
            rows=self.logits.shape[0],
            vocab=self.logits.shape[1],
            stride=self.stride,
            target=self.target.data_ptr(),
            temperature=self.temperature,
            softcap=self.softcap or 0.0,
            **{dtype_name: _NATIVE.index(self.logits.dtype)},
            **place,
        )


@dataclass(frozen=True, slots=True, eq=False)
class RowStats:
    """What one pass over a tile of logits yields; all [R] in the tile's arithmetic dtype.

    logprob      log p_y, never above 0; -inf for a target whose logit is -inf
    entropy      H in nats
    lse          log sum_v exp(u_v), after softcap and temperature; -inf when every logit is -inf
    sum_p2       sum_v p_v^2
    sum_p2_logp  sum_v p_v^2 log p_v
    greedy       bool: u_y is the largest of the row (ties count) and finite
    """

    logprob: Tensor
    entropy: Tensor
    lse: Tensor
    sum_p2: Tensor
    sum_p2_logp: Tensor
    greedy: Tensor

    @classmethod
    def empty(cls, rows: int, dtype: torch.dtype, device: torch.device) -> "RowStats":
        """To be filled by a kernel. The five rows lie behind one another, from logprob on."""
        make = partial(torch.empty, device=device)
        return cls(*make(5, rows, dtype=dtype).unbind(0), make(rows, dtype=torch.bool))

    def addresses(self) -> list[int]:
        return [getattr(self, name).data_ptr() for name in self.__slots__]


@dataclass(frozen=True, slots=True, eq=False)
class RowGrad:
    """What the gradient of a tile needs; lse and entropy are None when the pass makes them."""

    c: Tensor
    e: Tensor | None
    lse: Tensor | None
    entropy: Tensor | None

    def addresses(self, *names: str) -> list[int]:
        """Of the named vectors, 0 for None."""
        vectors = (getattr(self, name) for name in names)
        return [0 if x is None else x.data_ptr() for x in vectors]


def row_pass_(
    tile: RowTile,
    c: Tensor | None = None,
    e: Tensor | None = None,
    *,
    saved: tuple[Tensor, Tensor] | None = None,
) -> RowStats | None:
    """Statistics of each row and, with c, its logits overwritten by their gradient.

    c, e   [R]  dL/dlogprob and dL/dentropy (None: zeros). A row with both 0 becomes exactly 0,
                whatever its logits hold
    saved  (lse, entropy) of an earlier pass over the same logits: the gradient alone is made and
           None returned. A float32 lse leaves a relative error of about 6e-8 |lse| in p, which one
           pass for both does not have
    """
    stats, grad = prepare(tile, c, e, saved)
    if tile.logits.shape[0]:
        row_kernels(tile.backend).launch(tile, stats, grad)
    return stats


def prepare(
    tile: RowTile, c: Tensor | None, e: Tensor | None, saved: tuple[Tensor, Tensor] | None
) -> tuple[RowStats | None, RowGrad | None]:
    """The two arguments of launch beside the tile, checked and allocated."""
    rows, device = tile.logits.shape[0], tile.logits.device
    stats = RowStats.empty(rows, tile.dtype, device) if saved is None else None
    if c is None:
        return stats, None
    given = {"c": c, "e": e} | dict(zip(("lse", "entropy"), saved or (None, None)))
    kept = {name: None if x is None else tile.vector(name, x) for name, x in given.items()}
    return stats, RowGrad(**kept)
