"""Groups of judged rollouts for the tests of weight rules."""

from nsr_fast.objective.weights import Now
from nsr_fast.types import Group, Prompt, Rollout

PROMPT = Prompt("a", "", (1,), None, {})


def rollout(verdict, *, reward=None, tokens=2, logprob=-0.5):
    """verdict True, False or None; logprob one number, or one a token. Its weights are stale."""
    logprobs = tuple(logprob) if isinstance(logprob, (tuple, list)) else (logprob,) * tokens
    ids = tuple(range(5, 5 + len(logprobs)))
    if reward is None and verdict is not None:
        reward = 1.0 if verdict else -1.0
    made = Rollout(PROMPT, ids, logprobs, "", "stop", reward=reward, is_correct=verdict)
    made.weight, made.entropy_share = 9.0, 9.0
    return made


def group(*rollouts):
    return Group(PROMPT, tuple(rollouts))


def of_verdicts(verdicts, **options):
    return group(*(rollout(verdict, **options) for verdict in verdicts))


def of_rewards(rewards, **options):
    """Correct where the reward is positive."""
    return group(*(rollout(r > 0, reward=float(r), **options) for r in rewards))


def weights(rule, *groups, now=None):
    """What the rule writes, rollout by rollout, for one group as a flat list."""
    rule(groups, now or Now())
    found = [[r.weight for r in one.rollouts] for one in groups]
    return found[0] if len(found) == 1 else found
