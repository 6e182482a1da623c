"""One candidate against its golds, all normalised: the cheap judgement and the full one.

quick_judgement   parent process: equal texts, shapes, exact rationals; None when algebra is needed
full_judgement    worker process: the same with formulas decided by nsr_fast.reward.math.symbolic
"""

from collections.abc import Callable

from nsr_fast.reward.math.compare import Outcome, rational_leaves, texts_equal
from nsr_fast.reward.math.limits import complexity
from nsr_fast.reward.verdict import Score, Verdict

Golds = tuple[str, ...]


def quick_judgement(golds: Golds, candidate: str) -> Score | None:
    """The score where no algebra is needed to know it."""
    if not candidate:
        return Score(Verdict.WRONG, "no_answer")
    if candidate in golds:
        return Score(Verdict.CORRECT, "equal")
    if complexity(candidate) is not None:
        return Score(Verdict.WRONG, "too_complex")
    outcomes: list[Outcome] = []
    for gold in golds:
        if complexity(gold) is not None:
            outcomes.append(False)
            continue
        outcomes.append(texts_equal(gold, candidate, rational_leaves))
        if outcomes[-1] is True:
            return Score(Verdict.CORRECT, "equal")
    return None if None in outcomes else Score(Verdict.WRONG, "different")


def full_judgement(
    golds: Golds, candidate: str, formulas_equal: Callable[[str, str], bool]
) -> Score:
    """The score of a candidate that quick_judgement left open.

    An unreadable gold leaves the candidate unscored, an unreadable candidate is wrong.
    """
    unparsed: list[str] = []

    def leaf_equal(a: str, b: str) -> Outcome:
        outcome = rational_leaves(a, b)
        if outcome is None:
            try:
                outcome = formulas_equal(a, b)
            except ValueError as error:
                unparsed.append(getattr(error, "text", str(error)))
        return outcome

    outcomes = [
        texts_equal(gold, candidate, leaf_equal) for gold in golds if complexity(gold) is None
    ]
    if True in outcomes:
        return Score(Verdict.CORRECT, "equal")
    if None not in outcomes:
        return Score(Verdict.WRONG, "different")
    is_gold = any(text not in candidate for text in unparsed)
    return Score(Verdict.UNSCORED, "bad_gold") if is_gold else Score(Verdict.WRONG, "unparsed")
