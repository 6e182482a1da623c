"""Before and after, in a few lines of text: what was measured, with intervals, and nothing else."""

from nsr_fast.evaluate.pass_at_k import default_ks, paired_difference, pass_at_k_curve
from nsr_fast.evaluate.sample import Evaluation


def summary_lines(name: str, before: Evaluation | None, after: Evaluation | None) -> list[str]:
    """A table of Pass@k of both evaluations and their paired difference (95 % intervals)."""
    if before is None or after is None:
        return []
    num_samples = before.num_samples
    ks = default_ks(num_samples)
    a = pass_at_k_curve(before.num_correct, num_samples, ks)
    b = pass_at_k_curve(after.num_correct, num_samples, ks)
    lines = [
        "",
        f"Pass@k on {len(before.num_correct)} problems, {num_samples} samples each "
        "[95 % interval over problems]",
        f"{'k':>5}  {'before':^21}  {'after ' + name:^21}  {'paired difference':^24}",
    ]
    for i, k in enumerate(ks):
        d = paired_difference(before.num_correct, after.num_correct, num_samples, k)
        lines.append(
            f"{k:>5}  {_interval(a.pass_at_k[i], a.low[i], a.high[i])}  "
            f"{_interval(b.pass_at_k[i], b.low[i], b.high[i])}  "
            f"{d.mean:+.3f} [{d.low:+.3f}, {d.high:+.3f}]"
        )
    lines.append(f"entropy of sampled tokens: {before.entropy:.3f} -> {after.entropy:.3f} nats")
    return lines


def _interval(value: float, low: float, high: float) -> str:
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"
