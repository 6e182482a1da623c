"""What one call of an engine's generate has used of its budget."""

import time
from dataclasses import dataclass, field

from nsr_fast.types import Budget


@dataclass(slots=True)
class BudgetMeter:
    """Counts tokens and seconds from its making on."""

    budget: Budget
    num_tokens: int = 0
    _started: float = field(default_factory=time.monotonic)

    def is_spent(self) -> bool:
        tokens, seconds = self.budget.max_tokens, self.budget.max_seconds
        if tokens is not None and self.num_tokens >= tokens:
            return True
        return seconds is not None and time.monotonic() - self._started >= seconds
