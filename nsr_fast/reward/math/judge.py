"""One candidate against its golds, all normalised: the cheap judgement and the full one.

quick_judgement   parent process: equal texts, shapes, exact rationals; None when algebra is needed
full_judgement    worker process: the same with formulas decided by nsr_fast.reward.math.symbolic
"""

from collections.abc import Callable

from nsr_fast.reward.math.compare import texts_equal
from nsr_fast.reward.math.grammar import leaves
from nsr_fast.reward.math.leaves import LeafEqual, Outcome, any_true, rational_leaves
from nsr_fast.reward.math.limits import complexity
from nsr_fast.reward.math.values import rational
from nsr_fast.reward.verdict import Score, Verdict

Golds = tuple[str, ...]
_SCORE = {
    True: Score(Verdict.CORRECT, "equal"),
    False: Score(Verdict.WRONG, "different"),
    None: None,
}


def quick_judgement(golds: Golds, candidate: str) -> Score | None:
    """The score where no algebra is needed to know it."""
    if not candidate:
        return Score(Verdict.WRONG, "no_answer")
    if candidate in golds:
        return Score(Verdict.CORRECT, "equal")
    if complexity(candidate) is not None:
        return Score(Verdict.WRONG, "too_complex")
    return _SCORE[_equals_any(golds, candidate, rational_leaves)]


def full_judgement(
    golds: Golds, candidate: str, formulas_equal: Callable[[str, str], bool]
) -> Score:
    """The score of a candidate that quick_judgement left open.

    An unreadable gold leaves the candidate unscored, an unreadable candidate is wrong. Without a
    candidate the golds alone are read.
    """
    if not candidate:
        return _readability(golds, formulas_equal)
    unparsed: list[str] = []

    def leaf_equal(a: str, b: str) -> Outcome:
        outcome = rational_leaves(a, b)
        if outcome is None:
            try:
                outcome = formulas_equal(a, b)
            except ValueError as error:
                unparsed.append(getattr(error, "text", str(error)))
        return outcome

    score = _SCORE[_equals_any(golds, candidate, leaf_equal)]
    if score is not None:
        return score
    is_gold = any(text not in candidate for text in unparsed)
    return Score(Verdict.UNSCORED, "bad_gold") if is_gold else Score(Verdict.WRONG, "unparsed")


def _readability(golds: Golds, formulas_equal: Callable[[str, str], bool]) -> Score:
    """bad_gold when some formula of a gold cannot be read; larger ones are compared as text."""
    try:
        for gold in golds:
            for leaf in leaves(gold) if complexity(gold) is None else ():
                if rational(leaf) is None:
                    formulas_equal(leaf, leaf)
    except ValueError:
        return Score(Verdict.UNSCORED, "bad_gold")
    return Score(Verdict.WRONG, "no_answer")


def _equals_any(golds: Golds, candidate: str, leaf_equal: LeafEqual) -> Outcome:
    """A gold too large to compute with equals nothing but its own text."""
    computable = (gold for gold in golds if complexity(gold) is None)
    return any_true(texts_equal(gold, candidate, leaf_equal, is_gold=True) for gold in computable)
