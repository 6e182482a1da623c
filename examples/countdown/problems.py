"""Countdown: combine the given numbers, each exactly once, with + - * / to reach the target.

    prompt `25,7,3>54:`     answer {"numbers": [25, 7, 3], "target": 54}     trace `25-7=18,18*3=54`

A problem comes from a random solution tree whose values all lie in 1..99; its target is in 10..99.
The split is a hash of (sorted numbers, target): pretraining 70 %, train (RL) 20 %, eval 10 %, so
the three never share a problem in any order of its numbers.

    python examples/countdown/problems.py --split train --num 4096 --seed 0 --out train.jsonl.gz
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import random
import sys
from dataclasses import dataclass
from pathlib import Path

NUM_NUMBERS = 3
MAX_NUMBER = 30
MAX_VALUE = 99
MIN_TARGET = 10
SPLITS = ("pretrain", "train", "eval")
_EVAL_PERCENT, _TRAIN_PERCENT = 10, 20
_MAX_MISSES_IN_A_ROW = 4_000


@dataclass(frozen=True, slots=True)
class Step:
    """One equation `left operator right = value` of a trace."""

    left: int
    operator: str
    right: int
    value: int

    def __str__(self) -> str:
        return f"{self.left}{self.operator}{self.right}={self.value}"


@dataclass(frozen=True, slots=True)
class Problem:
    """The given numbers, in the order of the prompt, and the target."""

    numbers: tuple[int, ...]
    target: int

    @property
    def key(self) -> str:
        """Name of the problem whatever the order of its numbers: `3,7,25>54`."""
        return f"{','.join(map(str, sorted(self.numbers)))}>{self.target}"

    @property
    def prompt(self) -> str:
        return f"{','.join(map(str, self.numbers))}>{self.target}:"

    @property
    def split(self) -> str:
        percent = int.from_bytes(hashlib.sha256(self.key.encode()).digest()[:8]) % 100
        if percent < _EVAL_PERCENT:
            return "eval"
        return "train" if percent < _EVAL_PERCENT + _TRAIN_PERCENT else "pretrain"

    def row(self) -> dict[str, object]:
        """The problem as one row of a data file."""
        answer = {"numbers": list(self.numbers), "target": self.target}
        return {"id": self.key, "prompt": self.prompt, "answer": answer}


def random_tree(rng: random.Random, numbers: tuple[int, ...]) -> list[Step]:
    """A random order of combining all numbers, every value in 1..99; the larger operand first."""
    while True:
        left_over, steps = list(numbers), []
        while len(left_over) > 1:
            first, second = rng.sample(range(len(left_over)), 2)
            step = random_step(rng, left_over[first], left_over[second])
            if step is None:
                break
            left_over = [v for i, v in enumerate(left_over) if i not in (first, second)]
            left_over.append(step.value)
            steps.append(step)
        if len(left_over) == 1:
            return steps


def random_step(rng: random.Random, a: int, b: int) -> Step | None:
    """A random operation on two values that stays in 1..99, None if the drawn one does not."""
    left, right = max(a, b), min(a, b)
    operator = rng.choice("+-*/")
    if operator == "/" and left % right:
        return None
    value = {
        "+": left + right,
        "-": left - right,
        "*": left * right,
        "/": left // right,
    }[operator]
    return Step(left, operator, right, value) if 1 <= value <= MAX_VALUE else None


def random_problem(rng: random.Random, split: str) -> tuple[Problem, list[Step]]:
    """A problem of the split and the solution it was made from."""
    while True:
        numbers = tuple(rng.randint(1, MAX_NUMBER) for _ in range(NUM_NUMBERS))
        steps = random_tree(rng, numbers)
        problem = Problem(numbers, steps[-1].value)
        if problem.target >= MIN_TARGET and problem.split == split:
            return problem, steps


def distinct_problems(split: str, num: int, seed: int) -> list[Problem]:
    """num different problems of the split, the same for the same arguments on every machine."""
    rng = random.Random(f"countdown {split} {seed}")
    problems: dict[str, Problem] = {}
    misses = 0
    while len(problems) < num:
        problem, _ = random_problem(rng, split)
        misses = misses + 1 if problem.key in problems else 0
        problems.setdefault(problem.key, problem)
        if misses == _MAX_MISSES_IN_A_ROW:
            raise ValueError(
                f"num: the {split} split has about {len(problems)} problems, got {num}; "
                "ask for fewer"
            )
    return list(problems.values())


def write_rows(problems: list[Problem], path: Path) -> None:
    """Writes JSONL, gzip-compressed (without a time stamp) when the name ends in .gz."""
    data = "".join(json.dumps(problem.row()) + "\n" for problem in problems).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data, 9, mtime=0) if path.suffix == ".gz" else data)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write Countdown problems as JSONL.")
    parser.add_argument("--split", choices=SPLITS[1:], required=True)
    parser.add_argument("--num", type=int, required=True, help="number of different problems")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="FILE.jsonl or FILE.jsonl.gz")
    options = parser.parse_args(arguments)
    if options.num < 1:
        parser.error(f"--num: expected at least 1, got {options.num}")
    try:
        problems = distinct_problems(options.split, options.num, options.seed)
        write_rows(problems, options.out)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print(f"{options.out}: {len(problems)} problems of the {options.split} split")
    return 0


if __name__ == "__main__":
    sys.exit(main())
