"""What a reward function is told of the run, and what it and the scoring say of one round."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from nsr_fast.errors import InputError
from nsr_fast.types import Rollout


@dataclass(frozen=True, slots=True)
class TrainerState:
    """As TRL's: the round (0 in the trial call and the first evaluation) and how many there are."""

    global_step: int = 0
    max_steps: int = 0


@dataclass
class RoundLog:
    """Written by the parts while they score the rollouts of one round."""

    trainer_state: object = field(default_factory=TrainerState)
    rollouts: Sequence[Rollout] = ()
    notes: list[str] = field(default_factory=list)  # lines for the user
    _metrics: dict[str, list[float]] = field(default_factory=dict)

    def log_metric(self, name: str, value: float) -> None:
        """A number of the round; several of one name are averaged."""
        self._metrics.setdefault(str(name), []).append(float(value))

    def log_extra(self, column: str, values: Sequence[object]) -> None:
        """A value for every completion, written to rollouts/ beside its text."""
        if len(values) != len(self.rollouts):
            raise InputError(
                f"reward: log_extra {column!r}: expected {len(self.rollouts)} values, one a "
                f"completion, got {len(values)}"
            )
        for rollout, value in zip(self.rollouts, values):
            rollout.extras[str(column)] = value

    def metrics(self) -> dict[str, float]:
        """The mean of what was logged, as logged/NAME."""
        return {f"logged/{name}": sum(v) / len(v) for name, v in self._metrics.items()}
