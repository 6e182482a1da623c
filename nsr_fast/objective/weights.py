"""Weights of a group's rollouts from their rewards: one number for every token of a completion."""

from nsr_fast.types import Group


def weigh_by_sign(group: Group, *, correct: float, wrong: float) -> None:
    """Write each weight: `correct`, `wrong`, or 0 where a rollout is unscored or has no token."""
    for rollout in group.rollouts:
        if rollout.is_correct is None or not rollout.token_ids:
            rollout.weight = 0.0
        else:
            rollout.weight = correct if rollout.is_correct else wrong
