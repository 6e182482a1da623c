"""Prompts: rows through a template and the tokenizer, and which of them a round takes."""

import random
from collections.abc import Sequence

from nsr_fast.config import DataKeys
from nsr_fast.data.templates import templated_text
from nsr_fast.errors import InputError
from nsr_fast.types import Prompt


def load_prompts(
    rows: Sequence[dict], keys: DataKeys, tokenizer, *, limit: int | None = None
) -> list[Prompt]:
    """The prompts of the first `limit` rows, in their order.

    rows       as read_rows gives them
    keys       template and max_prompt_length (tokens; a longer prompt is an error, never cut)
    tokenizer  of transformers; called with add_special_tokens=False, because a template carries its
               own (a second begin-of-text token would be one too many)
    Raises     InputError naming the row, its length, the limit and the cure
    """
    rows = list(rows)[:limit]
    texts = [templated_text(keys.template, row["prompt"], tokenizer) for row in rows]
    token_ids = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    _check_lengths(rows, token_ids, keys.max_prompt_length)
    return [
        Prompt(row["id"], text, tuple(ids), row.get("answer"), row)
        for row, text, ids in zip(rows, texts, token_ids, strict=True)
    ]


def prompts_of_round(
    prompts: Sequence[Prompt], batch_size: int, seed: int, round_index: int
) -> list[Prompt]:
    """The batch of round 1, 2, ...: a pure function of its arguments.

    Every epoch visits each prompt once, in an order drawn from (seed, epoch); batches follow each
    other through the epochs without a gap.
    """
    places = range((round_index - 1) * batch_size, round_index * batch_size)
    orders = {epoch: _epoch(prompts, seed, epoch) for epoch in {p // len(prompts) for p in places}}
    return [orders[place // len(prompts)][place % len(prompts)] for place in places]


def _epoch(prompts: Sequence[Prompt], seed: int, epoch: int) -> list[Prompt]:
    order = list(prompts)
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return order


def _check_lengths(rows: list[dict], token_ids: list[list[int]], max_prompt_length: int) -> None:
    lengths = [len(ids) for ids in token_ids]
    if 0 in lengths:
        row = rows[lengths.index(0)]
        raise InputError(f"data: row {row['id']!r}: prompt has no tokens after the template")
    too_long = [index for index, length in enumerate(lengths) if length > max_prompt_length]
    if too_long:
        first = too_long[0]
        others = f" ({len(too_long) - 1} more rows are too long)" if len(too_long) > 1 else ""
        raise InputError(
            f"data: row {rows[first]['id']!r}: prompt has {lengths[first]} tokens, "
            f"max_prompt_length is {max_prompt_length}{others}; "
            f"raise max_prompt_length to {max(lengths)} or remove the row"
        )
