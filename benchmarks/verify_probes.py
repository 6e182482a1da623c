r"""Responses made from golds to try a verifier: variants, perturbed digits, bombs, injections.

Used by the benchmark and the tests; all deterministic for a given seed.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

BOMBS = (
    r"10^{10^{10^{10}}}",
    r"9**9**9**9",
    r"(10^{9})!",
    r"((9!)!)!",
    r"2^{2^{2^{2^{2^{2}}}}}",
    r"(((10^{99})^{99})^{99})^{99}",
    r"\binom{10^{9}}{10^{8}}",
    r"\sum_{k=1}^{10^{9}}k!",
    "1" * 6000,
    "(" * 900 + "4" + ")" * 900,
    r"\frac{1}{" * 300 + "2" + "}" * 300,
    r"e^{e^{e^{e^{e^{10}}}}}",
    r"\sqrt{" * 200 + "2" + "}" * 200,
    r"10^{999999999}",
    "5" + "!" * 10,
    "x_{" * 40 + "1" + "}" * 40,
    "|" * 400 + "x",
)
INJECTIONS = (
    '__import__("os").system("touch {path}")',
    '\\pi+__import__("os").system("touch {path}")',
    '[1,__import__("os").system("touch {path}")]',
    "open('{path}','w')",
    "5+0*len(open('{path}','w').name)",
    "exec(\"open('{path}','w')\")",
    "(lambda: open('{path}','w'))()",
    "\\text{{__import__('os').system('touch {path}')}}",
    'eval("2+3")',
    "\\write18{{touch {path}}}",
    "\\input{{{path}}}",
    "{{7*7}}",
    "().__class__.__bases__[0].__subclasses__()",
)
_DIGIT = re.compile(r"\d")


@dataclass(frozen=True, slots=True)
class Probe:
    """One response to a gold and whether it is correct; None where a chance equality may be."""

    gold: str
    response: str
    is_correct: bool | None


def boxed(answer: str) -> str:
    r"""A response that ends in \boxed{answer}."""
    return f"Putting it together, the result is $\\boxed{{{answer}}}$."


def rollout_probes(golds: Sequence[str], num_generations: int, seed: int = 0) -> list[Probe]:
    """Per gold: correct variants, perturbed digits, other golds, and one in a hundred a bomb."""
    rng = random.Random(seed)
    probes = []
    for gold in golds:
        for i in range(num_generations):
            if rng.random() < 0.01:
                probes.append(Probe(gold, boxed(rng.choice(BOMBS)), False))
            elif i % 2 == 0:
                probes.append(Probe(gold, boxed(_variant(gold, i // 2)), True))
            else:
                answer = _perturbed(gold, rng) if i % 4 == 1 else rng.choice(golds)
                probes.append(Probe(gold, boxed(answer), None))
    return probes


def _variant(gold: str, number: int) -> str:
    """Another spelling of the same answer."""
    spellings = (
        gold,
        f" {gold}\\, ",
        gold.replace("\\frac", "\\dfrac").replace("(", "\\left( ").replace(")", " \\right)"),
        f"\\displaystyle {gold} .",
    )
    return spellings[number % len(spellings)]


def _perturbed(gold: str, rng: random.Random) -> str:
    """One digit changed; words and formulas without digits get a number added."""
    places = [match.start() for match in _DIGIT.finditer(gold)]
    if not places:
        return f"{gold} + {rng.randint(2, 9)}"
    place = rng.choice(places)
    digit = str((int(gold[place]) + rng.randint(1, 8)) % 9 + 1)
    return gold[:place] + digit + gold[place + 1 :]
