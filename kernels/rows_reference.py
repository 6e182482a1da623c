"""Row kernels of the fused policy loss in plain torch: the definition of every backend.

One row of logits x and its target y, with softcap s and temperature tau:
    z = s tanh(x / s) (s given) or x;  u = z / tau;  p = softmax(u);  H = -sum_v p_v log p_v
    dL/dx_v = (c (1[v = y] - p_v) - e p_v (log p_v + H)) / tau * (1 - (z_v / s)^2)
with c = dL/dlogprob and e = dL/dentropy. All arithmetic is float32 (float64 for float64 logits).
linear_logprobs and linear_policy_loss are the two public operations on full logits under autograd.
"""

import torch
from torch import Tensor

from nsr_fast.kernels.head import TermsFn, TokenRows
from nsr_fast.kernels.rows import RowGrad, RowStats, RowTile


def reason_unavailable(device: torch.device | None = None) -> None:
    """None: this backend works on every device."""


def launch(tile: RowTile, stats: RowStats | None, grad: RowGrad | None) -> None:
    """Fill stats, write the gradient.

    A logit of -inf has p = 0 and adds nothing (0 log 0 = 0). A row of only -inf has logprob -inf,
    lse -inf, the rest 0. NaN or +inf in a row makes its numbers NaN.
    """
    u, slope = _scaled(tile.logits, tile.temperature, tile.softcap)
    if stats is not None:
        _fill(stats, u, tile.target)
    if grad is None:
        return
    if stats is None:
        entropy = grad.entropy
        logp = u - torch.where(torch.isneginf(grad.lse), 0.0, grad.lse)[:, None]
    else:
        entropy = stats.entropy
        logp = torch.log_softmax(u, dim=1)
        logp = torch.where(torch.isneginf(stats.lse)[:, None], -torch.inf, logp)
    _write_grad_(tile, grad, logp, entropy, slope)


def _fill(stats: RowStats, u: Tensor, target: Tensor) -> None:
    top = u.amax(dim=1)
    is_masked = torch.isneginf(top)
    shift = torch.where(is_masked, torch.zeros_like(top), top)
    d = u - shift[:, None]
    log_sum = d.exp().sum(dim=1).log()
    logp = d - log_sum[:, None]
    p = torch.where(is_masked[:, None], torch.zeros_like(d), logp.exp())
    p_logp = torch.where(p == 0, torch.zeros_like(p), p * logp)
    chosen = u.gather(1, target[:, None]).squeeze(1)
    logprob = (chosen - shift) - log_sum
    stats.logprob.copy_(torch.where(is_masked, chosen, logprob).clamp(max=0.0))
    stats.entropy.copy_(-p_logp.sum(dim=1) + 0.0)
    stats.lse.copy_(shift + log_sum)
    stats.sum_p2.copy_((p * p).sum(dim=1))
    stats.sum_p2_logp.copy_((p * p_logp).sum(dim=1))
    stats.greedy.copy_((chosen >= top) & ~is_masked)


def _write_grad_(
    tile: RowTile, rows: RowGrad, logp: Tensor, entropy: Tensor, slope: Tensor | None
) -> None:
    p, c, e = logp.exp(), rows.c, rows.e
    grad = -c[:, None] * p
    grad.scatter_add_(1, tile.target[:, None], c[:, None])
    is_zero = c == 0
    if e is not None:
        bend = torch.where(p == 0, torch.zeros_like(p), p * (logp + entropy[:, None]))
        grad -= e[:, None] * bend
        is_zero = is_zero & (e == 0)
    grad /= tile.temperature
    if slope is not None:
        grad *= slope
    tile.logits.copy_(grad.masked_fill_(is_zero[:, None], 0.0))


def linear_logprobs(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    *,
    bias: Tensor | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """logprob, entropy and lse [T] from full logits [T, V], differentiated by autograd.

    Half inputs make half logits, read in float32, as a plain torch model would.
    """
    logits = torch.nn.functional.linear(hidden, weight, bias)
    u, _ = _scaled(logits, temperature, softcap)
    logp = torch.log_softmax(u, dim=1)
    finite = logp.masked_fill(torch.isneginf(logp), 0.0)  # 0 log 0 = 0, with derivative 0
    entropy = -(logp.exp() * finite).sum(dim=1)
    return logp.gather(1, target[:, None]).squeeze(1), entropy, u.logsumexp(dim=1)


def linear_policy_loss(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    token_weight: Tensor,
    *,
    surrogate: TermsFn | None = None,
    entropy_coef: float = 0.0,
    bias: Tensor | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
    **sides: Tensor | None,
) -> Tensor:
    """The loss [] of linear_policy_loss from full logits of the active rows, under autograd.

    A surrogate enters through its own c and e: its value plus c (logprob - held logprob), likewise
    for the entropy, which has the surrogate's gradient whatever it holds constant.
    """
    rows = token_weight != 0
    options = {"bias": bias, "temperature": temperature, "softcap": softcap}
    logprob, entropy, _ = linear_logprobs(hidden[rows], weight, target[rows], **options)
    w = token_weight[rows].to(logprob.dtype)
    if surrogate is None:
        return -(w * logprob + entropy_coef * entropy).sum()
    side = {k: None if x is None else x[rows].to(logprob.dtype) for k, x in sides.items()}
    terms = surrogate(TokenRows(logprob.detach(), entropy.detach(), w, **side))
    e = torch.zeros_like(w) if terms.e is None else terms.e
    e = e - entropy_coef
    moved = terms.c * (logprob - logprob.detach()) + e * (entropy - entropy.detach())
    return (terms.loss - entropy_coef * entropy.detach() + moved).sum()


def _scaled(
    logits: Tensor, temperature: float, softcap: float | None
) -> tuple[Tensor, Tensor | None]:
    """u = z / tau in the arithmetic dtype, and dz/dx [R, V] when a softcap is given."""
    x = logits if logits.dtype == torch.float64 else logits.float()
    if softcap is None:
        return x / temperature, None
    tanh = torch.tanh(x / softcap)
    return softcap * tanh / temperature, 1.0 - tanh * tanh
