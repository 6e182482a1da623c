"""What a run shows before it starts: one prompt as tokens, what ends a completion, what fills a
round, and the rows of the head that belong to no token."""

from collections.abc import Sequence

from nsr_fast.config import Config
from nsr_fast.types import Prompt

_MAX_TOKENS, _MAX_STOPS, _MAX_CHARS = 12, 8, 320


def opening_lines(
    config: Config,
    prompts: Sequence[Prompt],
    tokenizer,
    stop_token_ids: Sequence[int],
    vocabulary: tuple[int, int],
) -> list[str]:
    """One line each; `vocabulary` is (valid rows, rows) of the head."""
    lines = [
        *_prompt_lines(prompts[0], tokenizer),
        _stop_line(stop_token_ids, tokenizer),
        _round_line(config, len(prompts)),
    ]
    valid, rows = vocabulary
    if valid < rows:
        lines.append(
            f"vocabulary: {rows - valid} of {rows} rows of the head belong to no token; they are "
            "neither sampled nor trained"
        )
    return lines


def dropped_line(key: str, num_rows: int, num_prompts: int, limit: int) -> list[str]:
    """How many prompts overlong_prompts left out, if any."""
    if num_rows == num_prompts:
        return []
    return [
        f"{key}: {num_rows - num_prompts} of {num_rows} prompts are longer than "
        f"max_prompt_length {limit} and left out"
    ]


def _prompt_lines(prompt: Prompt, tokenizer) -> list[str]:
    text = repr(prompt.text)
    if len(text) > _MAX_CHARS:
        half = _MAX_CHARS // 2
        text = f"{text[:half]} ... {text[-half:]}"
    shown = [f"{token}={tokenizer.decode([token])!r}" for token in prompt.token_ids]
    if len(shown) > 2 * _MAX_TOKENS:
        shown = [*shown[:_MAX_TOKENS], "...", *shown[-_MAX_TOKENS:]]
    count = len(prompt.token_ids)
    return [f"prompt {prompt.id}: {text}", f"  its {count} tokens: {' '.join(shown)}"]


def _stop_line(stop_token_ids: Sequence[int], tokenizer) -> str:
    shown = [f"{token} {tokenizer.decode([token])!r}" for token in stop_token_ids[:_MAX_STOPS]]
    more = len(stop_token_ids) - len(shown)
    return f"stop tokens: {', '.join(shown)}{f' and {more} more' if more else ''}"


def _round_line(config: Config, num_prompts: int) -> str:
    batch, samples = config.round.prompts_per_round, config.sampling.num_generations
    line = f"a round: {batch} prompts x {samples} generations = {batch * samples} rollouts"
    if batch > num_prompts:
        return f"{line}; the data has {num_prompts} prompts, so they repeat within a round"
    rounds = f"{num_prompts / batch:.1f}".removesuffix(".0")
    return f"{line}; {num_prompts} prompts last {rounds} rounds"
