"""One problem as the engine and the verifier see it."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Prompt:
    """A templated, tokenised problem and its accepted answer."""

    id: str  # unique in its data set
    text: str  # the template filled in: what the model reads
    token_ids: tuple[int, ...]  # of `text`, no special tokens added
    answer: object  # str, number, list of accepted answers, or whatever the reward reads
    columns: Mapping[str, object]  # the row as loaded; `prompt` holds the raw problem
