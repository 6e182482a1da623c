"""Validation of the arguments both linear operations share: ValueError with name, want and got."""

import torch
from torch import Tensor

_FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_SINGLE = torch.finfo(torch.float32)


def text(x: Tensor) -> str:
    """Shape, dtype and device of a tensor, as error messages show them."""
    return f"{list(x.shape)} {str(x.dtype).removeprefix('torch.')} on {x.device}"


def check_tensors(
    required: dict[str, Tensor], optional: dict[str, Tensor | None] | None = None
) -> None:
    """Every value a tensor; those of `optional` may be None."""
    for name, x in {**required, **(optional or {})}.items():
        if not isinstance(x, Tensor) and not (x is None and name not in required):
            raise ValueError(f"{name}: expected a tensor, got {type(x).__name__}")


def cast_for_autocast(
    hidden: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """hidden, weight and bias as torch.nn.functional.linear sees them: cast when autocast is on."""
    kind = hidden.device.type
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return hidden, weight, bias
    if hidden.dtype == torch.float64:
        return hidden, weight, bias
    dtype = torch.get_autocast_dtype(kind)
    return hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)


def check_head(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None,
    temperature: float,
    softcap: float | None,
    logits_dtype: torch.dtype | None,
) -> None:
    """Shapes, dtypes and devices of the projection, and its numbers; not the values of targets."""
    for name, x in (("hidden", hidden), ("weight", weight)):
        if x.dim() != 2 or x.dtype not in _FLOATS:
            raise ValueError(f"{name}: expected 2 axes of a floating dtype, got {text(x)}")
    tokens, width = hidden.shape
    vocab = weight.shape[0]
    if weight.shape[1] != width or weight.device != hidden.device or vocab == 0:
        want = f"[V, D]=[V, {width}] on {hidden.device} like hidden"
        raise ValueError(f"weight: expected {want}, got {text(weight)}")
    if weight.dtype != hidden.dtype:
        cure = "cast one of them or use torch.autocast"
        raise ValueError(f"weight: expected {hidden.dtype} like hidden, got {weight.dtype}; {cure}")
    for name, x in (("hidden", hidden), ("weight", weight)):
        if not x.is_contiguous():
            raise ValueError(
                f"{name}: expected contiguous rows, got strides {x.stride()}; call .contiguous()"
            )
    want = f"[T]=[{tokens}] int64 on {hidden.device}"
    if target.shape != (tokens,) or target.dtype != torch.int64 or target.device != hidden.device:
        raise ValueError(f"target: expected {want}, got {text(target)}")
    if bias is not None and (bias.shape != (vocab,) or bias.device != hidden.device):
        raise ValueError(f"bias: expected [V]=[{vocab}] on {hidden.device}, got {text(bias)}")
    if bias is not None and bias.dtype != weight.dtype:
        raise ValueError(f"bias: expected {weight.dtype} like weight, got {bias.dtype}")
    check_positive("temperature", temperature)
    if softcap is not None:
        check_positive("softcap", softcap)
    if logits_dtype is not None and logits_dtype not in (torch.float32, hidden.dtype):
        want = f"float32 or {hidden.dtype} (that of hidden)"
        raise ValueError(f"logits_dtype: expected {want}, got {logits_dtype}")


def check_positive(name: str, value: float) -> None:
    """A number above 0 that is finite in float32, and so is its inverse (kernels divide by it)."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    # By comparison: under torch.compile with dynamic=True the value may be symbolic.
    if not is_number or not _SINGLE.tiny <= value <= 1.0 / _SINGLE.tiny:
        raise ValueError(f"{name}: expected a finite number > 0, got {value!r}")


def check_targets(target: Tensor, vocab: int, is_active: Tensor | None = None) -> None:
    """Range of the targets of active rows; on the CPU only, where looking costs nothing."""
    if target.device.type != "cpu" or target.numel() == 0:
        return
    is_bad = (target < 0) | (target >= vocab)
    if is_active is not None:
        is_bad &= is_active
    if bool(is_bad.any()):
        row = int(is_bad.nonzero()[0])
        raise ValueError(
            f"target: expected values in [0, {vocab}), got {int(target[row])} in row {row}"
        )


def check_per_token(name: str, x: Tensor | None, tokens: int, device: torch.device) -> None:
    """A [T] floating vector on `device`, or None."""
    if x is None:
        return
    if x.shape != (tokens,) or not x.is_floating_point() or x.device != device:
        want = f"[T]=[{tokens}] float32 on {device}"
        raise ValueError(f"{name}: expected {want}, got {text(x)}")
