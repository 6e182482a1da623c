"""Pretraining text of the Countdown base policy: solutions, and a stated share of mistaken traces.

Like text written by people, the corpus holds attempts that fail. Five kinds, equally frequent:

    forced   the last equation claims the target, whatever its true value    25-7=18,18+3=54
    slip     one result is a little off and the trace goes on with it        25-7=17,17*3=51
    skip     a number is left out                                            25-7=18
    reuse    a given number is used a second time                            25-7=18,18+7=25
    miss     every equation holds, but the target is not reached             25-7=18,18-3=15

Problems (and the results of `miss`) come from the pretraining split only.
"""

from __future__ import annotations

import random

from problems import (
    MAX_VALUE,
    Problem,
    Step,
    random_problem,
    random_step,
    random_tree,
)

MISTAKES = ("forced", "slip", "skip", "reuse", "miss")
_SLIPS = (-10, -2, -1, 1, 2, 10)


def corpus_example(rng: random.Random, mistaken_share: float) -> tuple[Problem, str]:
    """A problem of the pretraining split and a trace, mistaken with the given probability."""
    problem, steps = random_problem(rng, "pretrain")
    if rng.random() < mistaken_share:
        steps = []
        while not steps:
            steps = mistaken_steps(rng, problem, rng.choice(MISTAKES))
    return problem, ",".join(map(str, steps))


def mistaken_steps(rng: random.Random, problem: Problem, kind: str) -> list[Step]:
    """One try at a trace of the given kind of mistake; [] when the draw does not allow it."""
    steps = random_tree(rng, problem.numbers)
    last = steps[-1]
    if kind == "forced":
        forced = Step(last.left, last.operator, last.right, problem.target)
        return [*steps[:-1], forced] if last.value != problem.target else []
    if kind == "slip":
        return _with_slip(rng, problem.numbers)
    if kind == "skip":
        return steps[:-1]
    if kind == "reuse":
        return _with_reuse(rng, problem.numbers, steps)
    missed = Problem(problem.numbers, last.value)
    is_miss = last.value != problem.target and missed.split == "pretrain"
    return steps if is_miss else []


def _with_slip(rng: random.Random, numbers: tuple[int, ...]) -> list[Step]:
    """A random tree in which one result is off and later ones build on it; [] on failure."""
    slip_at = rng.randrange(len(numbers) - 1)
    left_over, steps = list(numbers), []
    while len(left_over) > 1:
        first, second = rng.sample(range(len(left_over)), 2)
        step = random_step(rng, left_over[first], left_over[second])
        if step is None:
            return []
        if len(steps) == slip_at:
            off = step.value + rng.choice(_SLIPS)
            if not 1 <= off <= MAX_VALUE:
                return []
            step = Step(step.left, step.operator, step.right, off)
        left_over = [v for i, v in enumerate(left_over) if i not in (first, second)]
        left_over.append(step.value)
        steps.append(step)
    return steps


def _with_reuse(rng: random.Random, numbers: tuple[int, ...], steps: list[Step]) -> list[Step]:
    """The tree with its last equation rebuilt on a given number already used; [] on failure."""
    first = steps[0]
    values = [step.value for step in steps]
    used = [n for n in (first.left, first.right) if numbers.count(n) == 1 and n not in values]
    if not used:
        return []
    last = random_step(rng, steps[-1].left, rng.choice(used))
    return [*steps[:-1], last] if last is not None and last != steps[-1] else []
