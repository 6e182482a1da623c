"""Small models of each family on packed attention, with every parameter off its initial value."""

import torch
from checkpoints import family_config
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from nsr_fast.bench.saved import SavedBytes
from nsr_fast.model.attention import PACKED_ATTENTION

FAMILIES = ("qwen2", "qwen3", "llama")
LENGTHS = (25, 25, 20, 15)


def small_model(family: str, dtype: torch.dtype = torch.float32, **changes) -> PreTrainedModel:
    """transformers' own modules; `changes` are of the config (layers, biases, activation)."""
    config = family_config(family)
    values = {**config.to_dict(), **changes}
    values.pop("layer_types", None)  # follows from the number of layers
    config = type(config).from_dict(values)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation=PACKED_ATTENTION
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return model.to(dtype).train()


def trunk(model: nn.Module) -> tuple[Tensor, int]:
    """Final hidden states of fixed tokens [1, T, H], and the activation bytes kept."""
    ids = torch.randint(3, 259, (1, sum(LENGTHS)), generator=torch.Generator().manual_seed(1))
    positions = torch.cat([torch.arange(n) for n in LENGTHS])[None]
    with SavedBytes(exclude=model.parameters()) as saved:
        hidden = model.model(
            input_ids=ids, position_ids=positions, sequence_lengths=LENGTHS, use_cache=False
        ).last_hidden_state
    return hidden, saved.bytes


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """Of a fixed random projection of the trunk's output, by parameter name."""
    model.zero_grad()
    hidden, _ = trunk(model)
    hidden.backward(
        torch.randn(hidden.shape, generator=torch.Generator().manual_seed(2)).to(hidden.dtype)
    )
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def largest_error(got: dict[str, Tensor], want: dict[str, Tensor]) -> float:
    """The largest relative error of any parameter's gradient, by norms in float64."""
    assert got.keys() == want.keys()
    pairs = [(got[name].double(), want[name].double()) for name in want]
    return max(float((a - b).norm() / b.norm()) for a, b in pairs)


def formula_bytes(model: PreTrainedModel, low_rank: int = 0) -> int:
    """Of lean_layers.py for the tokens of trunk(); low_rank: adapters of all seven linears."""
    c, b = model.config, model.dtype.itemsize
    heads, key_heads = c.num_attention_heads, c.num_key_value_heads
    d = getattr(c, "head_dim", None) or c.hidden_size // heads
    q, k, h, i = heads * d, key_heads * d, c.hidden_size, c.intermediate_size
    layer = b * (2 * i + 2 * h + 2 * q + 2 * k + 7 * low_rank) + 4 * heads + 8
    if c.model_type == "qwen3":
        layer += b * (q + k) + 4 * (heads + key_heads)
    return sum(LENGTHS) * (c.num_hidden_layers * layer + b * h + 4 + 2 * b * d)
