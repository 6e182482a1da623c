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


METRICS = (
    Metric("round", "round of the run, from 1"),
    Metric("reward", "correct among the scored rollouts", "share", "Reward", scale="free"),
    Metric(
        "frac_all_correct",
        "prompts with correct rollouts only",
        "share",
        "One-sided prompts",
        "all correct",
    ),
    Metric(
        "frac_all_wrong",
        "prompts with no correct rollout",
        "share",
        "One-sided prompts",
        "all wrong",
    ),
    Metric(
        "entropy",
        "of the policy, as mean -logprob of all sampled tokens",
        "nats a token",
        "Entropy",
        "sampled tokens",
    ),
    Metric(
        "entropy_trained",
        "of the policy, exact, mean over the trained tokens",
        "nats a token",
        "Entropy",
        "trained tokens",
    ),
    Metric("loss", "of the objective, mean over the minibatches", "", "Loss", scale="free"),
    Metric(
        "grad_norm", "before clipping, mean over the optimizer steps", "L2 norm", "Gradient norm"
    ),
    Metric("completion_length_mean", "of all rollouts", "tokens", "Completion length", "mean"),
    Metric("completion_length_min", "shortest rollout", "tokens", "Completion length", "shortest"),
    Metric("completion_length_max", "longest rollout", "tokens", "Completion length", "longest"),
    Metric(
        "clipped_ratio",
        "rollouts stopped by max_completion_length",
        "share",
        "Truncated rollouts",
    ),
    Metric(
        "num_unscored", "rollouts without a verdict", "rollouts", "Rollouts left out", "unscored"
    ),
    Metric(
        "num_cut",
        "of the unscored, cut by the round's budget",
        "rollouts",
        "Rollouts left out",
        "cut by budget",
    ),
    Metric("num_tokens", "sampled in the round", "tokens"),
    Metric("trained_tokens", "with a weight other than 0", "tokens"),
    Metric("trained_fraction", "trained_tokens / num_tokens", "share", "Tokens trained on"),
    Metric("clip_fraction", "trained tokens of clipped ratio", "share", "Clipped tokens"),
    Metric(
        "drift_mean",
        "|logprob of the trainer - logprob of the engine|, mean over the trained tokens",
        "nats",
        "Trainer-engine drift",
        "mean",
        scale="log",
    ),
    Metric(
        "drift_max",
        "|logprob of the trainer - logprob of the engine|, largest of the trained tokens",
        "nats",
        "Trainer-engine drift",
        "largest",
        scale="log",
    ),
    Metric("optimizer_steps", "taken in the round", "steps"),
    Metric("learning_rate", "of the next optimizer step", "", "Learning rate"),
    Metric("tokens_per_s", "sampled / time of the rollouts", "tokens/s", "Generation speed"),
    Metric("time/", "this phase of the round", "s", "Time of a round", scale="stacked"),
    Metric("round_time", "the phases together", "s"),
    Metric("memory/kv_bytes", "size of the engine's KV cache", "bytes"),
    Metric("memory/kv_released_bytes", "given back to the device for the update", "bytes"),
    Metric("memory/kv_regained_bytes", "taken again after the update", "bytes"),
    Metric("verify/fast_share", "mathematics judged without a worker", "share"),
    Metric("verify/kills", "worker processes ended at their limit, since the start", "processes"),
    Metric("verify/p50_ms", "of the worker's judgements", "ms", "Verifier's latency", "median"),
    Metric("verify/p99_ms", "of the worker's judgements", "ms", "Verifier's latency", "99 %"),
    Metric("verify/", "mathematics by verdict and reason, since the start", "rollouts"),
    Metric("code/", "programs by verdict and reason, since the start", "rollouts"),
)


def find_metric(name: str) -> Metric | None:
    """The declaration of a key of metrics.jsonl: its own, else that of its family, else None."""
    families = [m for m in METRICS if m.name.endswith("/") and name.startswith(m.name)]
    return next((m for m in METRICS if m.name == name), next(iter(families), None))
