"""Every term of a run's memory in bytes, from the model's shape and the settings.

    always   weights, masters and moments, reserve; on the CPU also vLLM's KV cache, which stays
    update   gradients, activations and the head's rows of one pass, the head's tile
    rollout  KV cache, the engine's workspace
    peak     always + max(update, rollout)
Sizes and sources: arithmetic, checked against the modules by tests/memory/ and against measured
peaks by benchmarks/bench_memory_plan.py. Constants of CUDA were not measured on a GPU.
"""

from dataclasses import dataclass

from nsr_fast.memory.activations import checkpointed_bytes, plain_bytes
from nsr_fast.memory.shape import ModelShape
from nsr_fast.types import PLAIN, AdapterShape

GIB = 1 << 30
_TILE = {"cpu": 150 << 20, "cuda": 640 << 20}  # kernels/head_loop.py
_RESERVE = {"cpu": 420 << 20, "cuda": 3 * GIB // 2}  # CPU: what imports hold; CUDA: context
_CUDA_WORKSPACE = 1 << 30
_CPU_BATCHED_TOKENS = 8192  # rollout/vllm_start.py
_NF4 = 0.5625  # blocks of 64 values with a float32 each
_ADAMW_8BIT = 1 + 4 / 256 + 2


@dataclass(frozen=True, slots=True)
class Setup:
    """What the terms depend on; plain values.

    device      cpu or cuda
    itemsize    bytes of an element of the weights: 2 or 4
    logits_itemsize   of the head's logits in the update; None: itemsize
    engine      vllm or transformers
    longest     tokens of the longest sequence, prompt and completion
    context     that the engine must be able to hold; None: longest
    sequences   that the engine decodes at once
    valid_vocab rows of the head that belong to a token; None: all
    max_tokens  that one update can have in all; None: not known
    offload     none, optimizer or gradients
    """

    shape: ModelShape
    device: str
    itemsize: int
    engine: str
    longest: int
    sequences: int
    context: int | None = None
    valid_vocab: int | None = None
    max_tokens: int | None = None
    share_weights: bool = True
    optim: str = "adamw"
    master_weights: str = "device"
    offload: str = "none"
    activation_offload: bool = False
    logits_itemsize: int | None = None
    adapter: AdapterShape = PLAIN

    @property
    def adapter_params(self) -> int:
        return self.shape.adapter_params(self.adapter.rank, self.adapter.targets)

    @property
    def trained_params(self) -> int:
        return self.adapter_params if self.adapter.rank else self.shape.params


def weight_bytes(s: Setup) -> int:
    """Once where the engine shares them; an adapter beside a base; NF4 in the projections."""
    shape = s.shape
    linear = shape.layers * shape.linear_params if s.adapter.quantize == "nf4" else 0
    base = int(linear * _NF4) + s.itemsize * (shape.params - linear)
    copies = 2 if s.engine == "vllm" and not s.share_weights else 1
    return copies * (base + s.itemsize * s.adapter_params)


def state_bytes(s: Setup) -> int:
    """Masters and moments, wherever they lie."""
    count = s.trained_params
    if s.optim == "adamw_8bit":
        return int(_ADAMW_8BIT * count)
    has_master = s.itemsize == 2 and (s.master_weights != "stochastic" or s.offload != "none")
    is_copied = s.offload != "none" and s.device == "cuda"  # the host steps its own float32 weight
    return (12 if has_master or is_copied else 8) * count


def gradient_bytes(s: Setup) -> tuple[int, int]:
    """(on the device, on the host). The head's gradient is summed in float32."""
    if s.adapter.rank:
        trained = s.trained_params
        return (0, 4 * trained) if s.offload == "gradients" else (s.itemsize * trained, 0)
    shape = s.shape
    whole = s.itemsize * (shape.params - shape.head_params) + 4 * shape.head_params
    if s.offload != "gradients":
        return whole, 0
    return 4 * shape.head_params + s.itemsize * shape.layer_params, 4 * shape.params


def token_bytes(s: Setup, is_checkpointed: bool) -> int:
    """Activations a token, and the head's rows with their gradient and ten numbers."""
    rank = {"lora_rank": s.adapter.rank}
    if is_checkpointed:
        off = s.activation_offload
        trunk = checkpointed_bytes(s.shape, s.itemsize, is_offloaded=off, **rank)
    else:
        trunk = plain_bytes(s.shape, s.itemsize, **rank)
    return trunk + 2 * s.itemsize * s.shape.hidden + 40


def offloaded_token_bytes(s: Setup) -> int:
    """On the host a token: the checkpointed inputs of the layers."""
    return s.itemsize * s.shape.layers * s.shape.hidden if s.activation_offload else 0


def tile_bytes(s: Setup, tokens: int) -> int:
    """The tile of logits; rows that belong to no token have none."""
    row = (s.valid_vocab or s.shape.vocab) * (s.logits_itemsize or s.itemsize)
    return min(tokens * row, _TILE[s.device])


def kv_token_bytes(shape: ModelShape, itemsize: int) -> int:
    """Of the KV cache a token, in the dtype of the model."""
    return 2 * shape.layers * shape.key * itemsize


def workspace_bytes(s: Setup) -> int:
    """What the engine computes with: logits of the running sequences in float32, three times, and
    on the CPU one layer of a full prefill."""
    logits = 3 * 4 * s.sequences * s.shape.vocab
    if s.device == "cuda":
        return max(_CUDA_WORKSPACE, logits)
    tokens = min(_CPU_BATCHED_TOKENS, s.sequences * s.longest)
    row = 3 * s.shape.intermediate + 4 * s.shape.hidden
    return logits + tokens * row * s.itemsize


def reserve_bytes(s: Setup) -> int:
    """Of the process before it holds a model; on CUDA context, cuBLAS, graphs, fragmentation."""
    return _RESERVE[s.device]


def host_state_bytes(s: Setup) -> int:
    """Of the host while the device is CUDA: masters, moments and gradients that were put there."""
    if s.device == "cpu" or s.offload == "none":
        return 0
    return state_bytes(s) + gradient_bytes(s)[1]
