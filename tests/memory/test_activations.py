"""The formulas against real modules: parameters exactly, saved activations to 1 %."""

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

from nsr_fast.memory.activations import checkpointed_bytes, kept_bytes, plain_bytes
from nsr_fast.memory.shape import model_shape
from nsr_fast.model.attention import PACKED_ATTENTION
from nsr_fast.model.lean_layers import lean_layers

SIZES = {"hidden_size": 96, "intermediate_size": 224, "num_hidden_layers": 3, "vocab_size": 271}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2}
CONFIGS = {
    "llama": (LlamaConfig, {"tie_word_embeddings": False}),
    "qwen2": (Qwen2Config, {"tie_word_embeddings": True}),
    "qwen3": (Qwen3Config, {"tie_word_embeddings": True, "head_dim": 40}),
}
TOKENS, NUM_SEQUENCES = 256, 4


def model_of(family, dtype):
    kind, own = CONFIGS[family]
    config = kind(**SIZES, **own)
    config.use_cache = False
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        config, dtype=dtype, attn_implementation=PACKED_ATTENTION
    )
    return lean_layers(model.train())


@pytest.mark.parametrize("family", CONFIGS)
def test_number_of_parameters_is_that_of_the_modules(family):
    model = model_of(family, torch.float32)
    shape = model_shape(model.config.to_dict())
    assert shape.params == sum(p.numel() for p in model.parameters())
    layer = model.model.layers[0]
    assert shape.layer_params == sum(p.numel() for p in layer.parameters())
    linears = [m for m in layer.modules() if isinstance(m, torch.nn.Linear)]
    assert shape.linear_params == sum(m.weight.numel() for m in linears)
    adapter = sum(5 * (m.in_features + m.out_features) for m in linears)
    assert shape.adapter_params(5) == adapter * shape.layers
    assert shape.head_params == model.lm_head.weight.numel()


class Held:
    """Keeps a saved tensor, and its storage in the count for as long as the graph holds it."""

    def __init__(self, counter, tensor):
        self.counter, self.tensor = counter, tensor.detach()
        counter.add(tensor.untyped_storage(), 1)

    def __del__(self):
        self.counter.add(self.tensor.untyped_storage(), -1)


class Counter:
    """Bytes of the unique storages that autograd holds, parameters left out."""

    def __init__(self, model):
        tensors = [*model.parameters(), *model.buffers()]
        self.known = {t.untyped_storage().data_ptr() for t in tensors}
        self.users, self.now = {}, 0

    def add(self, storage, step):
        place = storage.data_ptr()
        if place in self.known:
            return
        before = self.users.get(place, 0)
        self.users[place] = before + step
        self.now += storage.nbytes() * ((before + step > 0) - (before > 0))


def saved(model):
    """Alive after the forward pass, bytes a token."""
    counter, length = Counter(model), TOKENS // NUM_SEQUENCES
    ids = torch.randint(3, 270, (1, TOKENS), generator=torch.Generator().manual_seed(1))
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: Held(counter, tensor), lambda held: held.tensor
    ):
        out = model.model(
            input_ids=ids,
            position_ids=torch.arange(length).repeat(NUM_SEQUENCES)[None],
            sequence_lengths=(length,) * NUM_SEQUENCES,
            use_cache=False,
        ).last_hidden_state
    alive = counter.now
    out.sum().backward()
    return alive / TOKENS


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", CONFIGS)
def test_saved_bytes_a_token_are_those_of_the_formula(family, dtype):
    model = model_of(family, dtype)
    shape, itemsize = model_shape(model.config.to_dict()), dtype.itemsize
    plain = saved(model)
    assert plain == pytest.approx(plain_bytes(shape, itemsize), rel=0.01)
    model.gradient_checkpointing_enable()
    kept = saved(model)
    rotary = 2 * itemsize * shape.head_dim  # an argument of the layers, which no hook sees
    assert kept == pytest.approx(kept_bytes(shape, itemsize) - rotary, rel=0.01)
    # one layer computed again: what a layer more adds to the plain pass
    inputs = itemsize * shape.layers * shape.hidden
    one_layer = (plain - (kept - inputs) - rotary) / shape.layers
    peak = kept + rotary + one_layer
    assert peak == pytest.approx(checkpointed_bytes(shape, itemsize), rel=0.01)
    host = checkpointed_bytes(shape, itemsize, is_offloaded=True)
    assert peak - inputs == pytest.approx(host, rel=0.01)
