"""Nothing wrong is accepted and nothing right rejected, on answers equal by construction or not."""

import pytest

from benchmarks.verify_probes import boxed
from nsr_fast.reward import Verdict
from nsr_fast.reward.math import MathVerifier
from tests.reward.math.fuzz import mutated, pairs


@pytest.fixture(scope="module")
def verifier():
    verifier = MathVerifier(num_workers=2)
    yield verifier
    verifier.close()


@pytest.mark.parametrize("seed", [0, 1])
def test_pairs_equal_or_not_by_construction(verifier, seed):
    cases = list(pairs(seed, per_kind=8))
    scores = verifier.score([boxed(answer) for _, answer, _ in cases], [g for g, _, _ in cases])
    off = [
        (*case, score.reason)
        for case, score in zip(cases, scores, strict=True)
        if score.verdict is not (Verdict.CORRECT if case[2] else Verdict.WRONG)
    ]
    assert len(cases) == 19 * 16 and off == []


def test_a_gold_with_one_character_changed_is_another_answer(verifier):
    cases = list(mutated(2, per_kind=10))
    scores = verifier.score([boxed(answer) for _, answer in cases], [gold for gold, _ in cases])
    accepted = [c for c, s in zip(cases, scores, strict=True) if s.verdict is Verdict.CORRECT]
    assert len(cases) == 190 and accepted == []
