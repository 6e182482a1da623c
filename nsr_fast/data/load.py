"""From rows to prompts: template, tokenise, refuse what does not fit."""

from collections.abc import Sequence
from pathlib import Path

from nsr_fast.data.rows import read_rows
from nsr_fast.data.templates import check_template, templated_text
from nsr_fast.errors import InputError
from nsr_fast.types import Prompt


def load_prompts(
    data: str | Path | Sequence[dict],
    *,
    tokenizer,
    template: str,
    max_prompt_length: int,
    limit: int | None = None,
) -> list[Prompt]:
    """The prompts of `data`, in its order.

    data               what read_rows takes, or the rows it gave
    tokenizer          of transformers; called with add_special_tokens=False, because a template
                       carries its own (a second begin-of-text token would be one too many)
    template           one of nsr_fast.data.TEMPLATES
    max_prompt_length  tokens; a longer prompt is an error, never cut
    Raises             InputError naming the row, its length, the limit and the cure
    """
    check_template(template)
    rows = read_rows(data, limit=limit) if isinstance(data, str | Path) else list(data)[:limit]
    texts = [templated_text(template, row["prompt"], tokenizer) for row in rows]
    token_ids = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    _check_lengths(rows, token_ids, max_prompt_length)
    return [
        Prompt(row["id"], text, tuple(ids), row.get("answer"), row)
        for row, text, ids in zip(rows, texts, token_ids, strict=True)
    ]


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
