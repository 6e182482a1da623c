"""What one token counts in a minibatch's loss: its scale, by the lengths of the responses alone.

    loss = sum_i scale_i sum_t f(w_it, ...)     over responses i, trained tokens t

Each function gives one scale a response; token_weight is w * scale, and TokenRows.scale carries it
to the terms that w does not multiply. Lengths are trained tokens; a response of length 0 gets 0.
All but reference_row_mean see no packing, so the gradient cannot depend on it.

`tokens` and `responses` replace what is counted: None counts what is here, as the paper's code does
for PSR and NSR; the numbers of the whole sampled minibatch make dropped rollouts (weight 0) count.
"""

from collections.abc import Sequence


def token_mean(lengths: Sequence[int], tokens: int | None = None) -> list[float]:
    """1 / (number of tokens of the minibatch): every token counts the same, long answers more.

    Source: DAPO, 2503.14476; today's default. Hand: lengths 1, 3 -> 1/4 each.
    """
    total = _positive("tokens", sum(lengths) if tokens is None else tokens, sum(lengths))
    return [1.0 / total if length else 0.0 for length in lengths]


def sequence_mean(lengths: Sequence[int], responses: int | None = None) -> list[float]:
    """1 / (T_i B): the mean over each response's tokens, then over the B responses.

    A token of a long answer counts less: wrong answers are punished less for being long.
    Source: 2506.01347 appendix C.1 (the paper's text), GRPO 2402.03300. Hand: lengths 1, 3 -> 1/2
    and 1/6.
    """
    here = sum(length > 0 for length in lengths)
    count = _positive("responses", here if responses is None else responses, here)
    return [1.0 / (length * count) if length else 0.0 for length in lengths]


def constant(
    lengths: Sequence[int], max_completion_length: int, responses: int | None = None
) -> list[float]:
    """1 / (max_completion_length B): a constant, so that the loss is linear in the tokens.

    Source: Dr.GRPO, 2503.20783. Hand: lengths 1, 3 of at most 8 -> 1/16 each.
    """
    longest = max(lengths, default=0)
    most = _positive("max_completion_length", max_completion_length, longest)
    here = sum(length > 0 for length in lengths)
    count = _positive("responses", here if responses is None else responses, here)
    return [1.0 / (most * count) if length else 0.0 for length in lengths]


def reference_row_mean(
    packs: Sequence[Sequence[int]], minibatch_rows: int | None = None
) -> list[list[float]]:
    """Token mean of each micro-batch, weighted by its share of rows: (rows / rows of all) / tokens.

    For reproduction only: the gradient depends on how the minibatch was packed. minibatch_rows is
    the configured number of rows; the code divides a short last minibatch by it too. None: those
    that are here.
    Source: the code of 2506.01347, dp_actor.update_policy. Hand: packs (1, 3), (4,) -> 1/6 each in
    the first, 1/12 in the second; packs (1,), (3, 4) -> 1/3, then 2/21 each.
    """
    here = sum(len(pack) for pack in packs)
    rows = _positive("minibatch_rows", here if minibatch_rows is None else minibatch_rows, here)
    scales = []
    for pack in packs:
        total = sum(pack)
        scale = len(pack) / rows / total if total else 0.0
        scales.append([scale if length else 0.0 for length in pack])
    return scales


def _positive(name: str, value: int, least: int) -> int:
    """value, at least what is here; 1 for an empty minibatch, where nothing is divided."""
    if value < least:
        raise ValueError(f"{name}: expected at least the {least} that are here, got {value!r}")
    return max(value, 1)
