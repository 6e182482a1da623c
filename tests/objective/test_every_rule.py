"""What holds for every rule of every preset, on random rounds: finite numbers, zeros where due."""

import math
import random

import pytest
from rule_groups import group, rollout

from nsr_fast.objective.pass_k import BestOfGroup, Pkpo
from nsr_fast.objective.presets import PRESETS
from nsr_fast.objective.weights import Now, nsr_warmup

RULES = {name: preset.weights for name, preset in PRESETS.items()} | {
    "nsr_warmup": nsr_warmup,
    "grpo_passk": BestOfGroup,
    "pkpo_loo": lambda: Pkpo(3, "loo"),
}


def random_round(source):
    """Groups of 0 to 9 with verdicts from all right to all wrong, some unscored, odd rewards."""
    groups = []
    for _ in range(source.randrange(1, 5)):
        ease = source.choice([0.0, 0.0, 0.2, 0.5, 1.0, 1.0])
        made = []
        for _ in range(source.choice([0, 1, 1, 2, 3, 8, 9])):
            verdict = None if source.random() < 0.15 else source.random() < ease
            size = source.choice([1.0, 1.0, 1e-9, 0.1, 1e6])
            reward = None if verdict is None else size * (1.0 if verdict else -1.0)
            floor = source.choice([-1e-9, -0.3, -5.0, -1e5])
            logprobs = [floor * source.random() for _ in range(source.choice([0, 1, 2, 7]))]
            made.append(rollout(verdict, reward=reward, logprob=logprobs))
        groups.append(group(*made))
    return groups


@pytest.mark.parametrize("name", RULES)
def test_weights_are_finite_and_zero_where_nothing_was_judged(name):
    source, rule = random.Random(name), RULES[name]()
    is_used = False
    for _ in range(300):
        groups = random_round(source)
        now = Now(source.randrange(1, 8), 7)
        rule(groups, now)
        for one in (r for each in groups for r in each.rollouts):
            values = one.weight if isinstance(one.weight, tuple) else (one.weight,)
            assert all(math.isfinite(x) for x in (*values, one.entropy_share))
            if isinstance(one.weight, tuple):
                assert len(values) == len(one.token_ids) and one.is_trained
            if one.is_correct is None or not one.token_ids:
                assert one.weight == 0.0 and one.entropy_share == 0.0 and not one.is_trained
            is_used |= one.is_trained
    assert is_used


@pytest.mark.parametrize("name", RULES)
def test_a_rule_reads_nothing_of_what_stood_there_before(name):
    source, rule = random.Random(name), RULES[name]()
    for _ in range(30):
        groups = random_round(source)
        rollouts = [r for each in groups for r in each.rollouts]
        rule(groups, Now(2, 7))
        first = [(r.weight, r.entropy_share) for r in rollouts]
        for one in rollouts:
            one.weight, one.entropy_share = (3.0,) * len(one.token_ids), -2.0
        rule(groups, Now(2, 7))
        assert [(r.weight, r.entropy_share) for r in rollouts] == first


@pytest.mark.parametrize("name", RULES)
def test_the_order_of_the_rollouts_does_not_matter(name):
    source, rule = random.Random(name), RULES[name]()
    for _ in range(30):
        (one, *_) = random_round(source)
        rule([one], Now(2, 7))
        first = {id(r): r.weight for r in one.rollouts}
        mixed = group(*source.sample(one.rollouts, len(one.rollouts)))
        rule([mixed], Now(2, 7))
        for r in mixed.rollouts:
            assert r.weight == pytest.approx(first[id(r)], rel=1e-9, abs=1e-9)
