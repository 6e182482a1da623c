"""Sampling and scoring together: the order of groups, and what overlaps."""

from nsr_fast.rollout.collect import collect
from nsr_fast.types import Budget, Group, Prompt, Rollout, Sampling

P, Q = (Prompt(name, name, (1,), None, {}) for name in "pq")


class Recorder:
    """An engine that finishes samples out of order and a reward that scores by text, in one log."""

    def __init__(self):
        self.log = []

    def generate(self, prompts, sampling, seeds, budget):
        self.log.append(("generate", [p.id for p in prompts], sampling, seeds, budget))
        for index, sample in [(1, 0), (0, 1), (1, 1), (0, 0)]:
            text = f"{prompts[index].id}{sample}"
            yield index, sample, Rollout(prompts[index], (5,), (-1.0,), text, "stop")
        self.log.append("generated")

    def add(self, rollout):
        self.log.append(rollout.text)

    def finish(self, groups):
        self.log.append(("finish", groups))


def test_groups_come_in_order_and_rollouts_are_scored_as_they_finish():
    both, budget = Recorder(), Budget(max_tokens=9)
    sampling = Sampling(2, 8)
    groups = collect(
        both, both, [P, Q], sampling, [7, 8], budget, on_sampled=lambda: both.log.append("sampled")
    )
    assert [(g.prompt, [r.text for r in g.rollouts]) for g in groups] == [
        (P, ["p0", "p1"]),
        (Q, ["q0", "q1"]),
    ]
    assert both.log == [
        ("generate", ["p", "q"], sampling, [7, 8], budget),
        *("q0", "p1", "q1", "p0"),
        "generated",
        "sampled",
        ("finish", groups),
    ]
    assert all(isinstance(group, Group) for group in groups)
