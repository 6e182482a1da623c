"""Regroup an engine's stream."""

from collections.abc import Iterable, Iterator, Sequence

from nsr_fast.types import Group, Prompt, Rollout


def whole_groups(
    prompts: Sequence[Prompt], stream: Iterable[tuple[int, int, Rollout]], num_generations: int
) -> Iterator[tuple[int, Group]]:
    """Regroup an engine's stream: a prompt's index and group, once its last rollout is there."""
    waiting: dict[int, dict[int, Rollout]] = {}
    for index, sample, rollout in stream:
        held = waiting.setdefault(index, {})
        held[sample] = rollout
        if len(held) == num_generations:
            del waiting[index]
            yield index, Group(prompts[index], tuple(held[i] for i in range(num_generations)))
