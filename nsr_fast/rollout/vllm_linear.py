"""The engine's layers are ours: one linear method for full training, LoRA and QLoRA.

    y = x W^T + bias + scale (x A^T) B^T        per slice of a fused layer; A, B where it is adapted

W is a plain [out, in] matrix or NF4 bytes (model/nf4.py). vLLM loads the checkpoint into these
tensors, one copy from the first byte; the trainer's parameters then are row slices of them
(shared_weights.py). The same products run on the CPU and on CUDA. Registered through vLLM's public
door for quantisation methods; the checkpoint needs no entry for it.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from vllm.model_executor.layers.linear import LinearBase, LinearMethodBase
from vllm.model_executor.layers.quantization import register_quantization_config
from vllm.model_executor.layers.quantization.base_config import QuantizationConfig
from vllm.model_executor.layers.vocab_parallel_embedding import (
    UnquantizedEmbeddingMethod,
    VocabParallelEmbedding,
)
from vllm.model_executor.utils import set_weight_attrs

from nsr_fast.kernels.matmul import head_logits
from nsr_fast.model.layout import policy_names
from nsr_fast.model.nf4 import dequantize, packed_shapes, quantize
from nsr_fast.types import AdapterShape

NAME = "nsr_shared"
_SLICE_OF_SHARD = {"q": 0, "k": 1, "v": 2}


class SharedLinear(LinearMethodBase):
    """How one engine layer holds its weight and multiplies with it.

    adapted   for each slice of the fused layer whether it has an adapter
    """

    def __init__(self, shape: AdapterShape, adapted: list[bool]):
        self.shape, self.adapted = shape, adapted

    def create_weights(
        self,
        layer: nn.Module,
        input_size_per_partition: int,
        output_partition_sizes: list[int],
        input_size: int,
        output_size: int,
        params_dtype: torch.dtype,
        **_: object,
    ) -> None:
        """Make weight [out, in] (or NF4 bytes and absmax), and A and B of the adapted slices."""
        num_in, sizes = input_size_per_partition, output_partition_sizes
        layer.nsr_sizes, layer.nsr_dtype = sizes, params_dtype
        if self.shape.quantize == "nf4":
            weight, absmax = packed_shapes(sum(sizes), num_in)
            layer.weight = _frozen(torch.empty(weight, dtype=torch.uint8))
            layer.absmax = _frozen(torch.empty(absmax))
        else:
            layer.weight = _frozen(torch.empty(sum(sizes), num_in, dtype=params_dtype))
        set_weight_attrs(layer.weight, {"weight_loader": _loader(layer)})
        rank = self.shape.rank
        rows = sum(size for size, is_adapted in zip(sizes, self.adapted) if is_adapted)
        if rank and rows:
            num_adapters = sum(self.adapted)
            layer.lora_A = _frozen(torch.zeros(num_adapters * rank, num_in, dtype=params_dtype))
            layer.lora_B = _frozen(torch.zeros(rows, rank, dtype=params_dtype))

    def process_weights_after_loading(self, layer: nn.Module) -> None:
        """The tensors stay as they are: the trainer computes with them too."""

    def apply(self, layer: nn.Module, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x [tokens, in] -> [tokens, out]"""
        weight = layer.weight
        if self.shape.quantize == "nf4":
            weight = dequantize(weight, layer.absmax, layer.nsr_dtype)
        y = linear(x, weight, bias)
        return self._add_adapters(layer, x, y) if hasattr(layer, "lora_A") else y

    def _add_adapters(self, layer: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        rank, scale = self.shape.rank, self.shape.scale
        low = linear(x, layer.lora_A)
        column = row = adapter = 0
        for size, is_adapted in zip(layer.nsr_sizes, self.adapted):
            if is_adapted:
                part = low[:, adapter * rank : (adapter + 1) * rank]
                b = layer.lora_B[row : row + size]
                y[:, column : column + size].addmm_(part, b.t(), alpha=scale)
                row, adapter = row + size, adapter + 1
            column += size
        return y


class SharedEmbedding(UnquantizedEmbeddingMethod):
    """Embedding and head: vLLM's own, without the packed second copy that its CPU backend makes.

    logits_dtype   None: that of the weight; else the products are summed and kept in it
    """

    def __init__(self, logits_dtype: torch.dtype | None):
        self.logits_dtype = logits_dtype

    def process_weights_after_loading(self, layer: nn.Module) -> None:
        """Nothing is packed."""

    def apply(self, layer: nn.Module, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Logits [tokens, vocabulary]"""
        if self.logits_dtype not in (None, layer.weight.dtype):
            return head_logits(x, layer.weight, bias, self.logits_dtype)
        if x.device.type == "cpu":
            return linear(x, layer.weight, bias)
        return super().apply(layer, x, bias)


@register_quantization_config(NAME)
class SharedConfig(QuantizationConfig):
    """What vLLM asks for the method of each layer."""

    def __init__(self, shape: AdapterShape, logits_dtype: torch.dtype | None):
        super().__init__()
        self.shape, self.logits_dtype = shape, logits_dtype

    @classmethod
    def get_name(cls) -> str:
        return NAME

    @classmethod
    def get_supported_act_dtypes(cls) -> list[torch.dtype]:
        return [torch.float32, torch.bfloat16, torch.float16]

    @classmethod
    def get_min_capability(cls) -> int:
        return 0

    @staticmethod
    def get_config_filenames() -> list[str]:
        return []

    @classmethod
    def from_config(cls, config: dict) -> "SharedConfig":
        """From the entry that engine_options puts into the engine's model config."""
        name = config["logits_dtype"]
        return cls(AdapterShape.from_json(config["adapter"]), name and getattr(torch, name))

    def get_quant_method(self, layer: nn.Module, prefix: str):
        if isinstance(layer, LinearBase):
            return SharedLinear(self.shape, [self.shape.adapts(n) for n in policy_names(prefix)])
        is_vocabulary = isinstance(layer, VocabParallelEmbedding)
        return SharedEmbedding(self.logits_dtype) if is_vocabulary else None


def engine_options(shape: AdapterShape, logits_dtype: torch.dtype | None) -> dict:
    """The arguments of vllm.LLM that make every layer one of ours."""
    name = logits_dtype and str(logits_dtype).removeprefix("torch.")
    entry = {"quant_method": NAME, "adapter": shape.to_json(), "logits_dtype": name}
    return {"quantization": NAME, "hf_overrides": {"quantization_config": entry}}


def _loader(layer: nn.Module) -> Callable:
    """What vLLM calls with each matrix of the checkpoint: written into its rows of the layer."""

    @torch.no_grad()
    def load(weight: nn.Parameter, loaded: Tensor, shard: str | int | None = None) -> None:
        index = 0 if shard is None else _SLICE_OF_SHARD.get(shard, shard)
        start = sum(layer.nsr_sizes[:index])
        size = sum(layer.nsr_sizes) if shard is None else layer.nsr_sizes[index]
        if len(loaded) != size:
            raise ValueError(f"checkpoint: expected {size} rows, got {list(loaded.shape)}")
        rows = slice(start, start + size)
        if hasattr(layer, "absmax"):  # quantised alone: never a whole model in its own dtype
            loaded = loaded.to(weight.device, layer.nsr_dtype)
            weight.data[rows], layer.absmax.data[rows] = quantize(loaded)
        else:
            weight.data[rows].copy_(loaded)

    return load


def _frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)
