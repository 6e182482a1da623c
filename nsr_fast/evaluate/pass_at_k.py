"""Pass@k: the chance that at least one of k samples is correct, unbiased, with intervals.

    pass@k = 1 - C(n - c, k) / C(n, k) = 1 - prod_{i = n-c+1..n} (1 - k / i)   n samples, c correct

The product form neither overflows nor cancels. Intervals are percentile bootstraps over problems
(the unit that generalises); samples within a problem are not resampled.
Source: arXiv 2107.03374, section 2.1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NUM_RESAMPLES = 2000
_SEED = 20250602


@dataclass(frozen=True, slots=True)
class PassAtK:
    """One curve; the four tuples have one entry per k."""

    k: tuple[int, ...]
    pass_at_k: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean of b - a over the same problems, with its 95 % interval."""

    mean: float
    low: float
    high: float


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Unbiased estimate from `num_correct` correct among `num_samples`, 1 <= k <= num_samples."""
    if not 0 <= num_correct <= num_samples:
        raise ValueError(f"num_correct: expected 0..{num_samples}, got {num_correct}")
    if not 1 <= k <= num_samples:
        raise ValueError(f"k: expected 1..num_samples={num_samples}, got {k}")
    if num_samples - num_correct < k:
        return 1.0
    i = np.arange(num_samples - num_correct + 1, num_samples + 1, dtype=np.float64)
    return float(1.0 - np.prod(1.0 - k / i))


def default_ks(num_samples: int) -> list[int]:
    """1, 2, 4, ... up to num_samples."""
    return [1 << bit for bit in range(num_samples.bit_length()) if 1 << bit <= num_samples]


def pass_at_k_curve(
    correct_counts: Sequence, num_samples: int, ks: Sequence[int] | None = None
) -> PassAtK:
    """Mean Pass@k over problems with 95 % intervals.

    correct_counts  [N] or [seeds, N] integers: correct samples of each problem; seeds are averaged
                    problem by problem before the bootstrap
    """
    ks = default_ks(num_samples) if ks is None else list(ks)
    per_problem = _per_problem(correct_counts, num_samples, ks)  # [N, K]
    low, high = _interval(per_problem)
    mean = per_problem.mean(axis=0)
    return PassAtK(tuple(ks), *(tuple(map(float, values)) for values in (mean, low, high)))


def paired_difference(
    counts_a: Sequence, counts_b: Sequence, num_samples: int, k: int
) -> Difference:
    """Pass@k of b minus that of a on the same problems in the same order."""
    a = _per_problem(counts_a, num_samples, [k])
    b = _per_problem(counts_b, num_samples, [k])
    if a.shape != b.shape:
        raise ValueError(
            f"counts_b: expected the {len(a)} problems of counts_a, got {len(b)}; "
            "a paired difference needs the same problems in the same order"
        )
    low, high = _interval(b - a)
    return Difference(float((b - a).mean()), float(low[0]), float(high[0]))


def _per_problem(correct_counts: Sequence, num_samples: int, ks: Sequence[int]) -> np.ndarray:
    """[N, K] float64, averaged over seeds."""
    counts = np.atleast_2d(np.asarray(correct_counts))
    if counts.ndim != 2 or counts.size == 0:
        raise ValueError(f"correct_counts: expected [N] or [seeds, N], got shape {counts.shape}")
    table = {int(c): [pass_at_k(num_samples, int(c), k) for k in ks] for c in np.unique(counts)}
    return np.array([[table[int(c)] for c in row] for row in counts]).mean(axis=0)


def _interval(per_problem: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95 % percentile bootstrap over axis 0, the same resamples for every column."""
    num_problems = len(per_problem)
    rng = np.random.default_rng(_SEED)
    weights = rng.multinomial(
        num_problems, np.full(num_problems, 1 / num_problems), size=NUM_RESAMPLES
    )
    means = weights @ per_problem / num_problems  # [NUM_RESAMPLES, K]
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    return low, high
