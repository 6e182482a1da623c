"""The negative-sample family against hand-worked numbers, on both signs."""

import math

import numpy as np
import pytest
from rule_groups import group, of_verdicts, rollout, weights

from nsr_fast.objective.group_relative import GroupRelative
from nsr_fast.objective.negative_groups import A3po, Lens, RlZvp
from nsr_fast.objective.negatives import FAMILY, Fade, Mass, SignMasses, a_nsr, cw_nsr
from nsr_fast.objective.weights import Now, Schedule, reinforce

HALF, QUARTER = math.log(0.5), math.log(0.25)


def test_masses_multiply_time_confidence_and_difficulty():
    """q = 1/2, p = 1/4: 3 * (1/2)^2 * (1/2)^1 * (1/4)^1 * (3/4)^2 halfway through the run."""
    mass = Mass(Schedule(2.0, 4.0), confidence=2.0, surprise=1.0, easy=1.0, hard=2.0)
    one = rollout(False, logprob=HALF)
    assert mass.of(one, 0.25, Now(2, 3)) == pytest.approx(3 * 0.25 * 0.5 * 0.25 * 0.5625)


def test_masses_of_the_difficulty_axis_are_grpo_without_the_deviation():
    rule = SignMasses(Mass(hard=1.0), Mass(easy=1.0))
    verdicts = [True, False, False, None, False]
    expected = [x / 2 for x in weights(GroupRelative(std=False), of_verdicts(verdicts))]
    assert weights(rule, of_verdicts(verdicts)) == pytest.approx(expected)  # rewards +1, -1: twice


def test_confidence_is_the_geometric_mean_of_the_token_probabilities():
    found = weights(cw_nsr(), group(rollout(False, logprob=(math.log(0.9), math.log(0.4)))))
    assert found == pytest.approx([-math.sqrt(0.36)])


def test_a_nsr_pushes_mistakes_hard_early_and_mildly_late():
    found = [weights(a_nsr(), of_verdicts([True, False]), now=Now(r, 3)) for r in (1, 2, 3)]
    assert found == [pytest.approx(x) for x in ([0.1, -1.0], [0.1, -0.65], [0.1, -0.3])]


def test_cw_nsr_punishes_confident_mistakes_most():
    judged = group(
        rollout(False, logprob=HALF), rollout(False, logprob=QUARTER), rollout(True), rollout(None)
    )
    assert weights(cw_nsr(), judged) == pytest.approx([-0.5, -0.25, 0.0, 0.0])
    assert weights(cw_nsr(power=2.0), judged) == pytest.approx([-0.25, -0.0625, 0.0, 0.0])


def test_cw_nsr_on_the_other_sign_raises_unlikely_successes_most():
    judged = group(rollout(True, logprob=HALF), rollout(True, logprob=QUARTER), rollout(False))
    found = weights(cw_nsr(correct=2.0, surprise=1.0), judged)
    assert found[:2] == pytest.approx([1.0, 1.5])


def test_fade_moves_with_the_round():
    """3 of 8 correct: a = 1.5 * 5 / 3 = 2.5; entropy 0.5 under a target of 1: d = 0.5."""
    hard = of_verdicts([True, False, False, False])
    easy = of_verdicts([True, False, True, False])
    found = weights(Fade(entropy_target=1.0), hard, easy)
    up, down = 0.75**2.5, -(0.75**1.5) * 0.25 / 0.5
    assert found[0] == pytest.approx([up, down, down, down])
    up, down = 0.5**2.5, -(0.5**1.5) * 0.5 / 0.5
    assert found[1] == pytest.approx([up, down, up, down])


@pytest.mark.parametrize(
    ("verdicts", "power"), [([True, False], 1.5), ([True] * 4 + [False], 1.0), ([False] * 3, 3.0)]
)
def test_fade_turns_from_hard_problems_as_the_round_is_solved(verdicts, power):
    assert Fade().masses([of_verdicts(verdicts)]).correct.hard == pytest.approx(power)


@pytest.mark.parametrize(
    ("target", "factor"), [(None, 1.0), (0.4, 1.0), (0.75, 4 / 3), (1.0, 2.0), (9.0, 1 / 0.3)]
)
def test_fade_pushes_mistakes_harder_below_the_entropy_target(target, factor):
    masses = Fade(entropy_target=target).masses([of_verdicts([True, False], logprob=-0.5)])
    assert masses.wrong.time == pytest.approx(factor)


def test_lens_calibrates_wrong_rewards_by_confidence():
    """q = 1/2 correct, 1/2 and 1/4 wrong: D = max(3 / 2, 1) = 1.5, so 1/2 / 1 and 1/4 / 1.25."""
    judged = group(
        *(rollout(True, logprob=HALF), rollout(False, logprob=HALF)),
        *(rollout(None), rollout(False, logprob=QUARTER)),
    )
    values = np.array([1.0, -0.5 / 3, -0.2 / 3])
    expected = (values - values.mean()) / (values.std(ddof=1) + 1e-6)
    a, b, c = expected
    assert weights(Lens(), judged) == pytest.approx([a, b, 0.0, c], abs=1e-14)


def test_lens_bounds_the_difficulty_by_twice_the_largest_confidence():
    """A sure correct rollout: 3 / (1 / 0.9) = 2.7 is above 1.8; of a rare one, 0.03 is below 1."""
    sure = [rollout(True, logprob=math.log(0.9)), *of_verdicts([False] * 2, logprob=HALF).rollouts]
    assert Lens().calibrated(sure) == pytest.approx([1.0, *[-0.5 / 2.2 / 3] * 2])
    rare = [rollout(True, logprob=math.log(0.01)), *of_verdicts([False] * 2, logprob=HALF).rollouts]
    assert Lens().calibrated(rare) == pytest.approx([1.0, *[-1.0 / 3] * 2])


def test_lens_charges_nothing_for_what_could_not_be_expected():
    impossible = [rollout(False, logprob=-1e5), rollout(False, logprob=HALF)]
    assert Lens().calibrated(impossible) == [0.0, -0.5]
    assert Lens().calibrated(impossible[:1]) == [0.0]


def test_lens_learns_from_all_wrong_groups_by_confidence_alone():
    """q = 1/2, 1/4: D = 1, rewards -1/2 and -1/6, mean -1/3; a quarter of the distance."""
    judged = group(rollout(False, logprob=HALF), rollout(False, logprob=QUARTER))
    assert weights(Lens(), judged) == pytest.approx([-1 / 24, 1 / 24])
    assert weights(Lens(), of_verdicts([False] * 3)) == [0.0] * 3
    assert weights(Lens(), of_verdicts([True] * 3)) == [0.0] * 3


def shares(*groups):
    return [r.entropy_share for one in groups for r in one.rollouts]


def test_rl_zvp_trains_groups_of_one_verdict_by_entropy():
    right, wrong = of_verdicts([True, None, True]), of_verdicts([False, False])
    mixed, empty = of_verdicts([True, False]), of_verdicts([True], tokens=0)
    found = weights(RlZvp(), right, wrong, mixed, empty)
    assert found[:2] == [[0.1, 0.0, 0.1], [-0.1, -0.1]] and found[3] == [0.0]
    assert found[2] == weights(GroupRelative(), of_verdicts([True, False]))
    RlZvp()([right, wrong, mixed, empty], Now())
    assert shares(right, wrong, mixed, empty) == [1.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("cap", [1.5, 2.0, 5.0])
def test_rl_zvp_with_a_cap_is_linear_in_the_entropy(cap):
    """w (1 - f + f H) is -0.1 (cap - H) for wrong and 0.1 H for right groups."""
    wrong, right = of_verdicts([False]), of_verdicts([True])
    RlZvp(entropy_cap=cap)([wrong, right], Now())
    for one, slope, start in ((wrong, 0.1, -0.1 * cap), (right, 0.1, 0.0)):
        w, f = one.rollouts[0].weight, one.rollouts[0].entropy_share
        assert w * f == pytest.approx(slope) and w * (1 - f) == pytest.approx(start)


def test_a3po_reshapes_rare_tokens_of_right_and_likely_ones_of_wrong_rollouts():
    logprobs = (-0.1, -3.0, -0.2, -2.0, -1.0)
    judged = group(
        *(rollout(True, logprob=logprobs), rollout(False, logprob=logprobs)),
        *(rollout(None, logprob=logprobs), rollout(True, logprob=(-0.5, -0.4))),
    )
    found = weights(A3po(reinforce(), share=0.4), judged, now=Now(1, 3))
    assert found[0] == (1.0, 2.0, 1.0, 2.0, 1.0)
    assert found[1] == (-2.0, -1.0, -2.0, -1.0, -1.0)
    assert found[2:] == [0.0, (2.0, 1.0)]  # at least one token
    halfway = weights(A3po(reinforce(), share=0.2), judged, now=Now(2, 3))
    assert halfway[0] == (1.0, 1.5, 1.0, 1.0, 1.0)
    assert weights(A3po(reinforce()), judged, now=Now(3, 3)) == [1.0, -1.0, 0.0, 1.0]


def test_a3po_stands_on_grpo():
    judged = of_verdicts([True, False, False], tokens=5)
    grpo = weights(GroupRelative(), of_verdicts([True, False, False], tokens=5))
    found = weights(FAMILY["a3po"](), judged)
    assert [sorted(map(abs, x))[:4] for x in found] == [[pytest.approx(abs(x))] * 4 for x in grpo]
    assert [max(x, key=abs) for x in found] == pytest.approx([2 * x for x in grpo])


def test_stapo_has_the_weights_of_grpo():
    judged = [True, False, None]
    found = weights(FAMILY["stapo"](), of_verdicts(judged))
    assert found == weights(GroupRelative(), of_verdicts(judged))


@pytest.mark.parametrize("rule", [cw_nsr(), Fade(), Lens(), A3po()])
def test_missing_logprobs_are_named(rule):
    judged = of_verdicts([False, True])
    for one in judged.rollouts:
        one.sampler_logprob = ()
    with pytest.raises(ValueError, match="sampler_logprob: expected 2, one a token, got 0"):
        rule([judged], Now())


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Mass(hard=-1.0), "hard: expected an exponent >= 0"),
        (lambda: Mass(Schedule(1.0, -1.0)), "time: expected numbers >= 0"),
        (lambda: Fade(max_power=0.5), "max_power: expected a number >= 1"),
        (lambda: RlZvp(entropy_cap=1.0), "entropy_cap: expected None or a number > 1"),
        (lambda: A3po(share=2.0), "share: expected a number in"),
        (lambda: A3po(scale=-1.0), "scale: expected numbers >= 0"),
    ],
)
def test_bad_numbers_are_named(make, match):
    with pytest.raises(ValueError, match=match):
        make()
