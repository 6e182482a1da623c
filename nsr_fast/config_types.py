"""What the groups of settings are made of: their base, and types of values."""

import os
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

Path = Annotated[str, AfterValidator(os.path.expanduser)]
Count = Annotated[int, Field(ge=1)]
Size = Annotated[float, Field(gt=0)]
GuardAction = Literal["warn", "skip", "stop", "raise_lambda"]
GuardName = Literal[
    "max_truncated",
    "max_no_answer",
    "max_unscored",
    "constant_reward_rounds",
    "first_correct_rounds",
    "non_finite",
    "drift_limit",
    "entropy_floor",
    "entropy_ceiling",
    "max_repetition",
    "max_length_change",
    "max_pass_at_1_drop",
]


def _seconds(value: object) -> object:
    """90, "90m", "1.5h", "2d", "1:30:00" and Slurm's "1-12:00:00" as seconds."""
    if not isinstance(value, str):
        return value
    text = value.strip().lower()
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    try:
        if ":" not in text:
            return float(text[:-1]) * units[text[-1]] if text[-1:] in units else float(text)
        days, _, clock = text.rpartition("-")
        parts = [float(part) for part in clock.split(":")]
        return int(days or 0) * 86400 + sum(x * 60**i for i, x in enumerate(reversed(parts)))
    except ValueError:
        raise ValueError("seconds, 90m, 1.5h, 1:30:00 or 1-12:00:00") from None


Seconds = Annotated[float, Field(gt=0, le=1e8), BeforeValidator(_seconds)]


class Group(BaseModel):
    """Keys that one room reads; at most 12."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
