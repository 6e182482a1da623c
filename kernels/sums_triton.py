"""Device functions the Triton kernels share: running sums of a softmax, soft cap, 1 - p.

For entries seen so far, with d_v = (z_v - top) log2(e) / temperature:
    s = sum 2^d,  t = sum 2^d d,  q = sum 4^d,  r = sum 4^d d
from which log-sum-exp, entropy, sum p^2 and sum p^2 log p follow without another exponential.
No libdevice and no inline assembly: the interpreter has neither.
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
LOWEST = tl.constexpr(-1e30)  # stands for log2 of zero, so that 0 * log 0 = 0


@triton.jit
def soft_cap(x, cap):
    """cap tanh(x / cap); the odd series keeps small logits accurate."""
    u = x / cap
    a = tl.minimum(tl.abs(u), 20.0)
    e = tl.exp2(a * (-2.0 * LOG2E))
    b = a * a
    series = 1.0 + b * (-1 / 3 + b * (2 / 15 + b * (-17 / 315 + b * (62 / 2835))))
    tanh = tl.where(a < 0.25, a * series, (1.0 - e) / (1.0 + e))
    tanh = tl.where(u != u, u, tanh)  # minimum drops NaN
    return cap * tl.where(u < 0, -tanh, tanh)


@triton.jit
def one_minus_exp(x):
    """1 - exp(x) for x <= 0, accurate near 0."""
    series = 1.0 + x / 5 * (1.0 + x / 6 * (1.0 + x / 7 * (1.0 + x / 8)))
    series = 1.0 + x / 2 * (1.0 + x / 3 * (1.0 + x / 4 * series))
    return tl.where(x > -0.25, -x * series, 1.0 - tl.exp2(x * LOG2E))


@triton.jit
def raise_top(s, t, q, r, shift):
    """The sums after the maximum grew by -shift (log2 units, per row)."""
    f = tl.exp2(shift)
    t = f * (t + shift * s)
    r = f * f * (r + shift * q)
    return f * s, t, f * f * q, r


@triton.jit
def distance(low, high, scale):
    """(low - high) scale for maxima low <= high, with 0 for equal ones, -inf included."""
    return tl.where(low == high, 0.0, tl.maximum((low - high) * scale, LOWEST))


@triton.jit
def store_stats(outputs_ptr, greedy_ptr, row, num_rows, mask, top, s, t, q, r, z_target, inv_temp):
    """Statistics of rows into outputs [5, num_rows]: logprob, entropy, lse, sum p^2, its log p."""
    is_masked = s == 0.0
    safe = tl.where(is_masked, 1.0, s)
    log_sum = tl.log(safe)
    logprob = (z_target - top) * inv_temp - log_sum
    logprob = tl.where(logprob > 0.0, 0.0, logprob)
    lse = tl.where(is_masked, top, top * inv_temp + log_sum)
    entropy = tl.where(is_masked, 0.0, log_sum - t * LN2 / safe)
    tl.store(outputs_ptr + row, tl.where(is_masked, z_target, logprob), mask=mask)
    tl.store(outputs_ptr + num_rows + row, entropy, mask=mask)
    tl.store(outputs_ptr + 2 * num_rows + row, lse, mask=mask)
    tl.store(outputs_ptr + 3 * num_rows + row, q / (safe * safe), mask=mask)
    tl.store(outputs_ptr + 4 * num_rows + row, (r * LN2 - log_sum * q) / (safe * safe), mask=mask)
    tl.store(greedy_ptr + row, (s > 0.0) & (z_target >= top), mask=mask)


IS_INTERPRETED = not isinstance(store_stats, triton.runtime.JITFunction)
