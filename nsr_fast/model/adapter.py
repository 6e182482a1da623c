"""Low-rank adapters and quantised bases: linears whose frozen weight carries trained A and B.

    y = x W^T + bias + (alpha / r) (x A^T) B^T      A [r, in], B [out, r]; B starts at 0

arXiv 2106.09685 (LoRA), 2305.14314 (QLoRA: W in NF4). The base stays as it is, bit for bit: A and B
are never merged into it while training. Embedding, head, norms and biases are frozen.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from nsr_fast.model.nf4 import nf4_linear, packed_shapes, quantize
from nsr_fast.model.recompute import lean_linear
from nsr_fast.types import LINEARS, AdapterShape


class FrozenLinear(nn.Module):
    """A linear whose weight is frozen, plain or NF4, with A and B where it is adapted.

    Tensors have the names and the row order of the engine's layer (rollout/vllm_linear.py), so that
    each is a row slice of the engine's. Made without values; fill them or bind them to the engine.
    """

    def __init__(self, linear: nn.Linear, shape: AdapterShape, *, is_adapted: bool):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.scale, self.is_active = shape.scale, True
        if shape.quantize == "nf4":
            self._hold_packed(linear.weight)
        else:
            self.weight = _frozen(linear.weight.detach())
            self.register_parameter("absmax", None)
        self.bias = None if linear.bias is None else _frozen(linear.bias.detach())
        like = {"dtype": linear.weight.dtype, "device": linear.weight.device}
        sizes = ((shape.rank, self.in_features), (self.out_features, shape.rank))
        for name, size in zip(("lora_A", "lora_B"), sizes):
            value = nn.Parameter(torch.zeros(size, **like)) if is_adapted else None
            self.register_parameter(name, value)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, -2)
        if self.absmax is None:
            y = lean_linear(rows, self.weight, self.bias)
        else:
            y = nf4_linear(rows, self.weight, self.absmax, self.bias)
        if self.lora_A is not None and self.is_active:
            low = lean_linear(rows, self.lora_A)
            y = y.addmm_(low, self.lora_B.t(), alpha=self.scale)
        return y.view(*x.shape[:-1], self.out_features)

    def _hold_packed(self, weight: Tensor) -> None:
        if weight.is_meta:
            packed, absmax = packed_shapes(*weight.shape)
            values = (
                torch.empty(packed, dtype=torch.uint8, device="meta"),
                torch.empty(absmax, device="meta"),
            )
        else:
            values = quantize(weight.detach())
        self.weight, self.absmax = map(_frozen, values)


def adapt(policy: PreTrainedModel, shape: AdapterShape) -> PreTrainedModel:
    """Freeze the policy and put FrozenLinear in the place of its projections; returns the policy.

    Nothing happens for a plain shape. Works on the meta device and on loaded weights.
    """
    if shape.is_plain:
        return policy
    policy.requires_grad_(False)
    for name, module in list(policy.named_modules()):
        parent, _, last = name.rpartition(".")
        if last in LINEARS and isinstance(module, nn.Linear):
            layer = FrozenLinear(module, shape, is_adapted=shape.adapts(name))
            setattr(policy.get_submodule(parent), last, layer)
    return policy


def adapted_layers(policy: PreTrainedModel) -> dict[str, FrozenLinear]:
    """The linears with A and B, by name."""
    return {
        name: module
        for name, module in policy.named_modules()
        if isinstance(module, FrozenLinear) and module.lora_A is not None
    }


@torch.no_grad()
def init_adapters(policy: PreTrainedModel, seed: int) -> None:
    """A uniform in +- 1/sqrt(in), PEFT's kaiming with a = sqrt 5; B zero: y is the base's."""
    generator = torch.Generator().manual_seed(seed)
    for layer in adapted_layers(policy).values():
        bound = 1.0 / math.sqrt(layer.in_features)
        drawn = torch.rand(layer.lora_A.shape, generator=generator) * (2 * bound) - bound
        layer.lora_A.copy_(drawn)
        layer.lora_B.zero_()


@contextmanager
def adapters_off(policy: PreTrainedModel) -> Iterator[None]:
    """The base model, with the same tensors: a reference policy that costs no memory."""
    layers = adapted_layers(policy).values()
    for layer in layers:
        layer.is_active = False
    try:
        yield
    finally:
        for layer in layers:
            layer.is_active = True


def _frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)
