"""The numbers of a round for metrics.jsonl, from its rollouts and its update."""

from collections import Counter
from collections.abc import Mapping, Sequence

from nsr_fast.run.metrics import find_metric
from nsr_fast.train.behaviour import runs_in_circles
from nsr_fast.train.tally import UpdateMetrics
from nsr_fast.types import Group, verdict_counts


def verdict_shares(groups: Sequence[Group]) -> dict[str, float]:
    """Shares of correct, wrong and unscored, and of the reasons where the reward gives them."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    return {name: count / len(rollouts) for name, count in verdict_counts(rollouts).items()}


def part_means(groups: Sequence[Group]) -> dict[str, float | None]:
    """The mean of every function of the reward over what it scored, unweighted."""
    sums, counts = Counter(), Counter()
    for rollout in (rollout for group in groups for rollout in group.rollouts):
        for name, reward in rollout.reward_parts.items():
            sums[name] += reward or 0.0
            counts[name] += reward is not None
    return {f"reward/{n}/mean": sums[n] / counts[n] if counts[n] else None for n in sums}


def of_this_round(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Statistics of the reward; those of a family are counts, so their growth."""
    return {
        name: value - before.get(name, 0.0) if is_count(name) else value
        for name, value in after.items()
    }


def is_count(name: str) -> bool:
    """Whether the name is one of a family of counts."""
    metric = find_metric(name)
    return metric is not None and metric.name.endswith("/")


def rollout_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """Rewards, lengths, entropy and repetition over all rollouts of a round."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    lengths = [len(rollout.token_ids) for rollout in rollouts]
    num_tokens = sum(lengths)
    scored = [r.is_correct for r in rollouts if r.is_correct is not None]
    solved = [[r.is_correct is True for r in group.rollouts] for group in groups]
    return {
        "reward": sum(scored) / len(scored) if scored else None,
        "frac_all_correct": sum(map(all, solved)) / len(solved),
        "frac_all_wrong": sum(not any(group) for group in solved) / len(solved),
        "num_unscored": len(rollouts) - len(scored),
        "entropy": -sum(sum(r.sampler_logprob) for r in rollouts) / max(1, num_tokens),
        "completion_length_mean": num_tokens / len(lengths),
        "completion_length_min": min(lengths),
        "completion_length_max": max(lengths),
        "clipped_ratio": sum(r.finish_reason == "length" for r in rollouts) / len(rollouts),
        "num_cut": sum(r.finish_reason == "cut" for r in rollouts),
        "repetition": sum(map(runs_in_circles, rollouts)) / len(rollouts),
        "num_tokens": num_tokens,
    }


def update_metrics(update: UpdateMetrics | None, groups: Sequence[Group]) -> dict:
    """The update's numbers; None where nothing was trained on."""
    num_tokens = sum(len(r.token_ids) for group in groups for r in group.rollouts)
    names = ("loss", "grad_norm", "entropy_trained", "drift_mean", "drift_max", "clip_fraction")
    return {
        **{name: getattr(update, name, None) for name in names},
        "optimizer_steps": update.steps if update else 0,
        "trained_tokens": update.trained_tokens if update else 0,
        "trained_fraction": (update.trained_tokens if update else 0) / max(1, num_tokens),
    }
