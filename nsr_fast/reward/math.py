r"""Verification of mathematical answers: the last box of a response against accepted answers.

Every step is linear in the length of the response, and no model text is ever evaluated as code.
"""

from collections.abc import Sequence

from nsr_fast.reward.boxed import extract_boxed
from nsr_fast.reward.judge import quick_judgement
from nsr_fast.reward.normalise import normalised
from nsr_fast.reward.verdict import Score, Verdict

MAX_ANSWER_CHARS = 2000


def verify_math(response: str, answer: object) -> Verdict:
    r"""CORRECT when the last \boxed{...} of `response` equals one of the accepted answers.

    answer   text (LaTeX), a number, or a list of accepted answers
    Returns  Verdict.UNSCORED when no accepted answer is usable (empty, wrong type)
    """
    return score_math(response, answer).verdict


def score_math(response: str, answer: object) -> Score:
    """verify_math with the reason and the extracted answer."""
    golds = accepted_answers(answer)
    if not golds:
        return Score(Verdict.UNSCORED, "bad_gold")
    extraction = extract_boxed(response)
    if extraction.text is None:
        return Score(Verdict.WRONG, extraction.reason)
    if len(extraction.text) > MAX_ANSWER_CHARS:
        return Score(Verdict.WRONG, "too_complex", extraction.text[:100])
    candidate = normalised(extraction.text)
    score = quick_judgement(tuple(normalised(gold) for gold in golds), candidate)
    if score is None:
        score = Score(Verdict.WRONG, "different")
    return Score(score.verdict, score.reason, extraction.text)


def accepted_answers(answer: object) -> list[str]:
    """The answers as text; unusable ones (empty, not text or number) are left out."""
    choices = answer if isinstance(answer, list | tuple) else [answer]
    texts = [
        str(choice)
        for choice in choices
        if isinstance(choice, str | int | float) and not isinstance(choice, bool)
    ]
    return [text for text in texts if text.strip()]


def math_reward(
    prompts: Sequence[str],
    completions: Sequence[str],
    completion_ids: Sequence[Sequence[int]],
    **columns: Sequence[object],
) -> list[float | None]:
    """+1 correct, -1 wrong, None unscored; columns["answer"] holds the accepted answers."""
    return [
        verify_math(completion, answer).reward
        for completion, answer in zip(completions, columns["answer"], strict=True)
    ]
