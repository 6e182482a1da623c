"""Bytes of activations a token, as autograd saves them: unique storages, per packed token.

Plain, float32 (b = 4) and bfloat16 (b = 2), of one layer:
    b (4 I + 2 H + 3 Q + 2 K) + 2 (4 + b) H + 4 heads + 8
  MLP        gate, silu(gate), up and their product                     4 b I
  linears    the normalised inputs of q|k|v and of gate|up              2 b H
  attention  q, k, v, its output, the same in o_proj's layout           b (3 Q + 2 K)
  norms      two: the input in float32 and the normalised value         (4 + b) H each
  rest       the log-sums of the attention, two rstd                    4 heads + 8
Qwen3 adds the two norms of q and k. With checkpointing b H a layer is kept, and one layer is there
in full while it is computed again. Checked by tests/memory/test_activations.py.
"""

from dataclasses import dataclass

from nsr_fast.memory.shape import ModelShape


@dataclass(frozen=True, slots=True)
class SavedBy:
    """What the modules save for backward; another implementation of one has other numbers.

    mlp_rows    rows of I elements that the MLP saves
    norm_input  bytes an element of a norm's input, beyond the normalised value in b
    norm_output whether the norm saves its normalised value for itself
    """

    mlp_rows: int = 4
    norm_input: int = 4
    norm_output: bool = True


def saved_by_transformers() -> SavedBy:
    """The modules of transformers, as they are."""
    return SavedBy()


def layer_bytes(
    shape: ModelShape, itemsize: int, *, lora_rank: int = 0, saved: SavedBy | None = None
) -> int:
    """Saved a token by one layer without checkpointing."""
    saved, b = saved or saved_by_transformers(), itemsize
    norm = saved.norm_input + (b if saved.norm_output else 0)
    per = b * (saved.mlp_rows * shape.intermediate + 2 * shape.hidden)
    per += b * (3 * shape.query + 2 * shape.key) + 2 * norm * shape.hidden + 4 * shape.heads + 8
    if shape.family == "qwen3":
        per += norm * (shape.query + shape.key) + 4 * (shape.query + shape.key) // shape.head_dim
    if lora_rank:  # frozen norms save no normalised value; seven products x A of r elements
        per += 7 * b * lora_rank - 2 * b * shape.hidden
    return per


def once_bytes(shape: ModelShape, itemsize: int) -> int:
    """Saved a token once for the whole trunk: the last norm, rotary cos and sin, positions."""
    return (4 + itemsize) * shape.hidden + 2 * itemsize * shape.head_dim + 12


def plain_bytes(shape: ModelShape, itemsize: int, **options) -> int:
    """Alive a token at the end of the forward pass, without checkpointing."""
    return shape.layers * layer_bytes(shape, itemsize, **options) + once_bytes(shape, itemsize)


def kept_bytes(shape: ModelShape, itemsize: int) -> int:
    """Kept a token with checkpointing: the input of every layer."""
    return itemsize * shape.layers * shape.hidden + once_bytes(shape, itemsize)


def checkpointed_bytes(
    shape: ModelShape, itemsize: int, *, is_offloaded: bool = False, **options
) -> int:
    """Alive a token at the worst moment of a checkpointed backward pass: what is kept (none of the
    layers' inputs where they go to the host) and one layer."""
    kept = once_bytes(shape, itemsize) if is_offloaded else kept_bytes(shape, itemsize)
    return kept + layer_bytes(shape, itemsize, **options)
