"""The sizes of a model that memory depends on, from its config.json alone.

    N = V H (twice where the head is not tied) + L layer + H
    layer = H (Q + 2K) + Q H + 3 H I + 2 H  [+ Q + 2K qwen2's biases]  [+ 2 d qwen3's norms]
Letters: L layers, H hidden, I intermediate, V vocabulary, d head_dim, Q = heads d, K = kv heads d.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nsr_fast.types import LINEARS


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes in elements."""

    family: str  # qwen2, qwen3 or llama
    layers: int
    hidden: int
    intermediate: int
    vocab: int
    heads: int
    head_dim: int
    query: int  # heads * head_dim
    key: int  # kv heads * head_dim
    is_tied: bool
    has_bias: bool  # of q, k and v

    @property
    def linear_params(self) -> int:
        """Weights of the seven projections of one layer: what LoRA and NF4 apply to."""
        attention = self.hidden * (2 * self.query + 2 * self.key)
        return attention + 3 * self.hidden * self.intermediate

    @property
    def layer_params(self) -> int:
        """Of one layer, norms and biases included."""
        biases = self.query + 2 * self.key if self.has_bias else 0
        norms = 2 * self.hidden + (2 * self.head_dim if self.family == "qwen3" else 0)
        return self.linear_params + biases + norms

    @property
    def head_params(self) -> int:
        """Of the vocabulary projection, V H."""
        return self.vocab * self.hidden

    @property
    def params(self) -> int:
        """N, every parameter once."""
        embeddings = self.head_params * (1 if self.is_tied else 2)
        return embeddings + self.layers * self.layer_params + self.hidden

    def adapter_params(self, rank: int, targets: Sequence[str] = LINEARS) -> int:
        """A [r, in] and B [out, r] of these projections of every layer."""
        h, i, q, k = self.hidden, self.intermediate, self.query, self.key
        sides = {"q_proj": h + q, "k_proj": h + k, "v_proj": h + k, "o_proj": q + h}
        sides |= dict.fromkeys(("gate_proj", "up_proj", "down_proj"), h + i)
        return self.layers * rank * sum(sides[name] for name in targets)


def model_shape(config: Mapping) -> ModelShape:
    """The sizes of config.json's keys; absent ones mean what transformers takes them for."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    family = config["model_type"]
    default_dim = 128 if family == "qwen3" else hidden // heads
    head_dim = config.get("head_dim") or default_dim
    kv_heads = config.get("num_key_value_heads") or heads
    return ModelShape(
        family=family,
        layers=config["num_hidden_layers"],
        hidden=hidden,
        intermediate=config["intermediate_size"],
        vocab=config["vocab_size"],
        heads=heads,
        head_dim=head_dim,
        query=heads * head_dim,
        key=kv_heads * head_dim,
        is_tied=bool(config.get("tie_word_embeddings", False)),
        has_bias=family == "qwen2",
    )
