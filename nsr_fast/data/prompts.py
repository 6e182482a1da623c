"""Prompts: rows through a template and the tokenizer, and which of them a round takes."""

import random
from collections.abc import Sequence

from nsr_fast.config_groups import DataKeys
from nsr_fast.data.templates import templated_text
from nsr_fast.errors import InputError
from nsr_fast.types import Prompt


def load_prompts(
    rows: Sequence[dict], keys: DataKeys, tokenizer, *, limit: int | None = None
) -> list[Prompt]:
    """The prompts of the first `limit` rows, in their order.

    rows       as read_rows gives them
    keys       template and its texts; max_prompt_length (tokens; never cut: a longer prompt is an
               error, or left out by overlong_prompts: drop)
    tokenizer  of transformers; what it puts before a text (begin-of-text) stands there once,
               whether the template writes it or not; it puts nothing behind
    Raises     InputError naming the row, its length, the limit and the cure
    """
    rows = list(rows)[:limit]
    texts = [_text(row, keys, tokenizer) for row in rows]
    token_ids = _token_ids(texts, tokenizer)
    kept = _fitting(rows, token_ids, keys)
    return [
        Prompt(rows[i]["id"], texts[i], tuple(token_ids[i]), rows[i].get("answer"), rows[i])
        for i in kept
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


def _text(row: dict, keys: DataKeys, tokenizer) -> str:
    try:
        return templated_text(keys, row["prompt"], tokenizer)
    except InputError as error:
        raise InputError(f"data: row {row['id']!r}: {error}") from None


def _token_ids(texts: list[str], tokenizer) -> list[list[int]]:
    if not texts:
        return []
    start = _start_ids(tokenizer)
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return [x if x[: len(start)] == start else [*start, *x] for x in ids]


def _start_ids(tokenizer) -> list[int]:
    """What the tokenizer's own call puts before a text."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    own = tokenizer("a")["input_ids"]
    places = range(len(own) - len(plain) + 1)
    return own[: next((i for i in places if own[i : i + len(plain)] == plain), 0)]


def _fitting(rows: list[dict], token_ids: list[list[int]], keys: DataKeys) -> list[int]:
    """Indices of the prompts within max_prompt_length."""
    limit, lengths = keys.max_prompt_length, [len(ids) for ids in token_ids]
    if 0 in lengths:
        row = rows[lengths.index(0)]
        raise InputError(f"data: row {row['id']!r}: prompt has no tokens after the template")
    kept = [index for index, length in enumerate(lengths) if length <= limit]
    if len(kept) < len(rows) and (keys.overlong_prompts == "error" or not kept):
        index = next(index for index, length in enumerate(lengths) if length > limit)
        more = len(rows) - len(kept) - 1
        others = f" ({more} more rows are too long)" if more else ""
        drop = ", remove the row or set overlong_prompts: drop" if kept else ""
        raise InputError(
            f"data: row {rows[index]['id']!r}: prompt has {lengths[index]} tokens, "
            f"max_prompt_length is {limit}{others}; "
            f"raise max_prompt_length to {max(lengths)}{drop}"
        )
    return kept
