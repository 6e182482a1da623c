"""Prompts whose rollouts agree again and again on one wrong answer: their gold is likely bad.

A round speaks against a prompt when none of its rollouts is correct and at least half of them, two
or more, state the same answer. Twice the same answer makes it a suspect.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from nsr_fast.types import Group, Prompt

_SUSPECT_AFTER = 2


@dataclass
class Suspects:
    """Counts over the rounds, by prompt and answer."""

    _rounds: dict[str, Counter] = field(default_factory=dict)  # by id: rounds of each answer
    _votes: dict[str, Counter] = field(default_factory=dict)  # by id: rollouts of each answer
    _sampled: Counter = field(default_factory=Counter)  # by id: rollouts in those rounds
    _golds: dict[str, object] = field(default_factory=dict)

    def add(self, groups: Sequence[Group]) -> None:
        """Counts one round."""
        for group in groups:
            if any(rollout.is_correct for rollout in group.rollouts):
                continue
            found = (r.answer_found for r in group.rollouts if r.is_correct is False)
            answers = Counter("".join(text.split()) for text in found if text)
            answer, votes = next(iter(answers.most_common(1)), ("", 0))
            if votes < 2 or 2 * votes < len(group.rollouts):
                continue
            name = group.prompt.id
            self._rounds.setdefault(name, Counter())[answer] += 1
            self._votes.setdefault(name, Counter())[answer] += votes
            self._sampled[name] += len(group.rollouts)
            self._golds[name] = group.prompt.answer

    def state(self) -> dict:
        """The counts as plain dicts; the answers of the data are left out."""
        return {
            "rounds": {name: dict(counts) for name, counts in self._rounds.items()},
            "votes": {name: dict(counts) for name, counts in self._votes.items()},
            "sampled": dict(self._sampled),
        }

    def restore(self, state: Mapping, prompts: Sequence[Prompt]) -> None:
        """Of state(), with the answers of `prompts`; what is of none of them is forgotten."""
        golds = {prompt.id: prompt.answer for prompt in prompts}
        kept = {name: state[name] for name in ("rounds", "votes", "sampled")}
        kept = {n: {p: x for p, x in by_id.items() if p in golds} for n, by_id in kept.items()}
        self._rounds = {name: Counter(counts) for name, counts in kept["rounds"].items()}
        self._votes = {name: Counter(counts) for name, counts in kept["votes"].items()}
        self._sampled = Counter(kept["sampled"])
        self._golds = {name: golds[name] for name in self._rounds}

    def records(self) -> list[dict]:
        """The suspects, the commonest consensus first."""
        records = []
        for name, rounds in self._rounds.items():
            answer, count = rounds.most_common(1)[0]
            if count >= _SUSPECT_AFTER:
                record = {"id": name, "answer": self._golds[name], "agreed_on": answer}
                record |= {"rounds": count, "rollouts": self._votes[name][answer]}
                records.append(record | {"of": self._sampled[name]})
        return sorted(records, key=lambda record: -record["rollouts"])

    def without_quarantined(
        self, prompts: Sequence[Prompt], quarantine_after: int | None
    ) -> list[Prompt]:
        """The prompts that have not come so often to the same wrong answer."""
        if quarantine_after is None:
            return list(prompts)
        counts = {name: max(rounds.values()) for name, rounds in self._rounds.items()}
        return [p for p in prompts if counts.get(p.id, 0) < quarantine_after]
