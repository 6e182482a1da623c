"""Bytes of activations a token, as autograd saves them: unique storages, per packed token.

Of one layer (model/lean_layers.py says which tensors these are), b bytes an element:
    b (2 I + 2 H + 2 Q + 2 K) + 4 heads + 8
Qwen3 adds b (Q + K) + 4 (heads + key heads); an adapter of rank r on all seven linears 7 b r. With
checkpointing b H a layer is kept, and one layer is there in full while it is computed again.
Checked by tests/memory/test_activations.py.
"""

from nsr_fast.memory.shape import ModelShape


def layer_bytes(shape: ModelShape, itemsize: int, *, lora_rank: int = 0) -> int:
    """Saved a token by one layer without checkpointing."""
    rows = 2 * (shape.intermediate + shape.hidden + shape.query + shape.key) + 7 * lora_rank
    per = itemsize * rows + 4 * shape.heads + 8
    if shape.family == "qwen3":
        normed = shape.query + shape.key
        per += itemsize * normed + 4 * normed // shape.head_dim
    return per


def once_bytes(shape: ModelShape, itemsize: int) -> int:
    """Saved a token once for the whole trunk: the last norm, rotary cos and sin, positions."""
    return itemsize * (shape.hidden + 2 * shape.head_dim) + 12


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
