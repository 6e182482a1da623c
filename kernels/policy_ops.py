"""torch.library operators behind linear_policy_loss.

nsr_fast::policy_loss runs the chunk loop and fills the gradient buffers it is given (it mutates
them and has no derivative of its own); nsr_fast::with_gradients returns the loss unchanged and
hands those buffers to autograd. Both have fake versions, so torch.compile keeps them whole.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from nsr_fast.kernels.backends import resolve_backend
from nsr_fast.kernels.checks import check_targets
from nsr_fast.kernels.chunks import Gradients, Head, row_functions
from nsr_fast.kernels.policy_rows import policy_rows
from nsr_fast.kernels.stats import ROW_NAMES
from nsr_fast.kernels.surrogates import find_surrogate


@torch.library.custom_op(
    "nsr_fast::policy_loss", mutates_args=("grad_hidden", "grad_weight", "grad_bias")
)
def policy_loss(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    token_weight: Tensor,
    old_logprob: Tensor | None,
    sampler_logprob: Tensor | None,
    ref_logprob: Tensor | None,
    grad_hidden: Tensor | None,
    grad_weight: Tensor | None,
    grad_bias: Tensor | None,
    accumulate: bool,
    temperature: float,
    softcap: float | None,
    surrogate: str,
    numbers: Sequence[float],
    entropy_coef: float,
    logits_dtype: torch.dtype,
    backend: str,
    chunk_rows: int | None,
) -> tuple[Tensor, Tensor]:
    """loss [] and the per-token rows of stats.ROW_NAMES [10, T]; fills the gradient buffers."""
    if target.device.type == "cpu":  # here, so that compiled programs look too
        check_targets(target, weight.shape[0], token_weight != 0)
    backend = resolve_backend(backend, hidden.device, logits_dtype)
    head = Head(weight, bias, temperature, softcap, logits_dtype, backend, chunk_rows)
    return policy_rows(
        head,
        row_functions(head),
        hidden,
        target,
        token_weight,
        (old_logprob, sampler_logprob, ref_logprob),
        find_surrogate(surrogate, numbers),
        entropy_coef,
        Gradients(grad_hidden, grad_weight, grad_bias, accumulate),
    )


@policy_loss.register_fake
def _(hidden, weight, bias, target, token_weight, old_logprob, *rest):
    logits_dtype = rest[-3]
    wide = torch.promote_types(logits_dtype, torch.float32)
    rows = hidden.new_empty(len(ROW_NAMES), hidden.shape[0], dtype=wide)
    return hidden.new_empty((), dtype=wide), rows


@torch.library.custom_op("nsr_fast::with_gradients", mutates_args=())
def with_gradients(
    loss: Tensor, inputs: Sequence[Tensor], gradients: Sequence[Tensor], is_unit: bool
) -> Tensor:
    """loss, differentiable in the first of `inputs` with the given gradients, and formally in the
    rest; is_unit: those have theirs already, so the upstream gradient must be 1, once."""
    return loss.clone()


@with_gradients.register_fake
def _(loss, inputs, gradients, is_unit):
    return torch.empty_like(loss)


@torch.library.custom_op("nsr_fast::scale_", mutates_args=("gradients",))
def scale_(gradients: Sequence[Tensor], upstream: Tensor, is_unit: bool) -> None:
    """gradients *= upstream in place. With is_unit another upstream than 1 is an error: raised on
    the CPU, turned into NaN on a GPU, where looking at it would wait for the device."""
    if upstream.is_cuda:
        factor = torch.where(upstream == 1, upstream, torch.nan) if is_unit else upstream
    else:
        factor = float(upstream)
        if factor == 1.0:
            return
        if is_unit:
            raise RuntimeError(
                "linear_policy_loss: accumulate_into_grad needs an upstream gradient of 1, "
                f"got {factor}; put scale factors into token_weight"
            )
    for gradient in gradients:
        gradient.mul_(factor)


@scale_.register_fake
def _(gradients, upstream, is_unit):
    return None


def _save_gradients(ctx, inputs, output) -> None:
    _, leaves, gradients, ctx.is_unit = inputs
    ctx.num_inputs, ctx.is_used = len(leaves), False
    ctx.save_for_backward(*gradients)


def _scaled_gradients(ctx, upstream: Tensor):
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        raise RuntimeError(
            "linear_policy_loss is differentiable once: create_graph=True is not supported"
        )
    if ctx.is_unit and ctx.is_used:
        raise RuntimeError("linear_policy_loss: accumulate_into_grad allows one backward pass")
    ctx.is_used = True
    gradients = list(ctx.saved_tensors)
    if _is_graph_kept():
        gradients = [gradient.clone() for gradient in gradients]
    scale_(gradients, upstream, ctx.is_unit)
    unfilled = [None] * (ctx.num_inputs - len(gradients))
    return None, [*gradients, *unfilled], [None] * len(gradients), None


with_gradients.register_autograd(_scaled_gradients, setup_context=_save_gradients)


def _is_graph_kept() -> bool:
    """Whether this backward pass may be followed by another over the same graph (retain_graph)."""
    return torch.compiler.is_compiling() or torch._C._autograd._get_current_graph_task_keep_graph()
