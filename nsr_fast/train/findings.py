"""What a guard found, in the words of its messages."""

from dataclasses import dataclass

from nsr_fast.config_guards import GUARDS
from nsr_fast.config_types import GuardName
from nsr_fast.types import Rollout

_MAX_CHARS = 240


@dataclass(frozen=True, slots=True)
class Finding:
    """That a guard was met.

    what      with the value
    cure      one, as an imperative
    example   a rollout that shows it
    """

    name: GuardName
    what: str
    cure: str
    limit: float
    example: Rollout | None = None

    @property
    def key(self) -> str:
        return GUARDS[self.name].key

    def stop_text(self, where: str) -> str:
        """Of the GuardStop."""
        off = "" if self.name in ("drift_limit", "non_finite") else "; none: off"
        text = f"{where}: {self.what}; {self.cure}, or set {self.key} (now {self.limit:.4g}{off})"
        return text if self.example is None else f"{text}. One of them: {shortened(self.example)}"

    def line(self, action: str, what_then: str = "") -> str:
        """Of the run that goes on."""
        limit = f"{self.key} {self.limit:.4g}"
        return f"guard {self.name} ({action}): {self.what} ({limit}){what_then}"


def shortened(rollout: Rollout) -> str:
    """Row and text, the middle left out."""
    text = " ".join(rollout.text.split())
    if len(text) > _MAX_CHARS:
        half = _MAX_CHARS // 2
        text = f"{text[:half]} ... {text[-half:]}"
    return f"row {rollout.prompt.id!r}: {text!r}"
