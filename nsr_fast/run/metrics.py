"""Every metric of metrics.jsonl, declared once: name, meaning, unit, and the chart that draws it.

A name that ends in "/" declares a family: every key that starts with it and has no declaration of
its own. None stands for "nothing to measure in this round" (no rollout scored, nothing trained).
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Metric:
    """One key of metrics.jsonl, or a family of keys.

    chart  title of the chart; metrics with the same title share it, None: not drawn
    label  name of the line where several share a chart
    scale  of the y axis; "stacked": the members of a family as areas on top of each other
    """

    name: str
    meaning: str
    unit: str = ""
    chart: str | None = None
    label: str = ""
    scale: Literal["from zero", "free", "log", "stacked"] = "from zero"


_DRIFT = "Trainer-engine drift"
METRICS = (
    Metric("round", "round of the run, from 1"),
    Metric("reward", "correct among the scored rollouts", "share", "Reward", scale="free"),
    Metric("frac_all_correct", "prompts all rollouts solve", "share", "Prompts solved", "by all"),
    Metric("frac_all_wrong", "prompts no rollout solves", "share", "Prompts solved", "by none"),
    Metric("entropy", "mean -logprob of all sampled tokens", "nats", "Entropy", "sampled tokens"),
    Metric("entropy_trained", "of the policy, exact", "nats", "Entropy", "trained tokens"),
    Metric("loss", "of the objective, mean over the minibatches", "", "Loss", scale="free"),
    Metric("grad_norm", "before clipping, mean over the steps", "L2 norm", "Gradient norm"),
    Metric("completion_length_mean", "of all rollouts", "tokens", "Completion length", "mean"),
    Metric("completion_length_min", "shortest rollout", "tokens", "Completion length", "shortest"),
    Metric("completion_length_max", "longest rollout", "tokens", "Completion length", "longest"),
    Metric("clipped_ratio", "stopped by max_completion_length", "share", "Truncated rollouts"),
    Metric("repetition", "rollouts that run in circles", "share", "Repetition"),
    Metric("num_unscored", "without a verdict", "rollouts", "Rollouts left out", "unscored"),
    Metric("num_cut", "unscored, by a budget", "rollouts", "Rollouts left out", "cut by budget"),
    Metric("num_tokens", "sampled in the round", "tokens"),
    Metric("trained_tokens", "with a weight other than 0", "tokens"),
    Metric("trained_fraction", "trained_tokens / num_tokens", "share", "Tokens trained on"),
    Metric("clip_fraction", "trained tokens of clipped ratio", "share", "Clipped tokens"),
    Metric("drift_mean", "|trainer - engine| logprob", "nats", _DRIFT, "mean", scale="log"),
    Metric("drift_max", "the same, of the worst token", "nats", _DRIFT, "largest", scale="log"),
    Metric("optimizer_steps", "taken in the round", "steps"),
    Metric("psr_weight", "lambda, which raise_lambda may raise", "", "Weight of correct rollouts"),
    Metric("guards/", "1 where this guard was met, else left out", "rounds"),
    Metric("learning_rate", "of the next optimizer step", "", "Learning rate"),
    Metric("tokens_per_s", "sampled / time of the rollouts", "tokens/s", "Generation speed"),
    Metric("time/", "this phase of the round", "s", "Time of a round", scale="stacked"),
    Metric("round_time", "the phases together", "s"),
    Metric("memory/micro_batch_tokens", "of a pass, less after an out of memory", "tokens"),
    Metric("memory/largest_pass_tokens", "of the round", "tokens"),
    Metric("memory/predicted_peak_bytes", "by the plan", "bytes", "Peak memory", "predicted"),
    Metric("memory/peak_bytes", "of the round", "bytes", "Peak memory", "measured"),
    Metric("memory/kv_bytes", "size of the engine's KV cache", "bytes"),
    Metric("memory/kv_released_bytes", "given back to the device for the update", "bytes"),
    Metric("memory/kv_regained_bytes", "taken again after the update", "bytes"),
    Metric("verify/fast_share", "mathematics judged without a worker", "share"),
    Metric("verify/kills", "worker processes ended at their limit, since the start", "processes"),
    Metric("verify/p50_ms", "of a worker", "ms", "Verifier latency", "median", scale="log"),
    Metric("verify/p99_ms", "of a worker", "ms", "Verifier latency", "99 %", scale="log"),
    Metric("verify/", "mathematics by verdict and reason, in this round", "rollouts"),
    Metric("code/", "programs by verdict and reason, in this round", "rollouts"),
    Metric("verdict/", "rollouts of the round", "share", "Verdicts", scale="stacked"),
    Metric("reason/", "why, by the function that decides", "share", "Reasons", scale="stacked"),
    Metric("reward/", "NAME/mean: of this function, unweighted", "", "Functions", scale="free"),
    Metric("logged/", "by log_metric of a reward function, mean of the round"),
)


def find_metric(name: str) -> Metric | None:
    """The declaration of a key of metrics.jsonl: its own, else that of its family, else None."""
    families = (m for m in METRICS if m.name.endswith("/") and name.startswith(m.name))
    return next((m for m in METRICS if m.name == name), next(families, None))
