"""8-bit moments on the gradients of a language model: the format we have, and the one we do not.

In the head v of rare tokens spans more than the unsigned dynamic map's seven decades within a block
of 256: with both moments in 8 bits the small v become 0 and their updates m / eps.
"""

from functools import partial

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from nsr_fast.kernels import adamw_8bit_reference as reference
from nsr_fast.kernels.adamw import adamw_step_
from nsr_fast.kernels.adamw_8bit import adamw_8bit_step_, num_blocks

STEPS = 240


class Float32:
    """The sum of the updates that a format makes of a stream of gradients; here, the exact one."""

    def __init__(self, shape: torch.Size):
        self.sum = torch.zeros(shape)
        self.exp_avg, self.exp_avg_sq = torch.zeros(shape), torch.zeros(shape)

    def add(self, grad: Tensor, step: int) -> None:
        numbers = {"step": step, "learning_rate": 1.0}
        adamw_step_(self.sum, grad, self.exp_avg, self.exp_avg_sq, **numbers)


class Ours(Float32):
    def __init__(self, shape: torch.Size):
        super().__init__(shape)
        self.exp_avg = self.exp_avg.to(torch.int8)
        self.absmax = torch.zeros(num_blocks(shape.numel()))
        self.exp_avg_sq = self.exp_avg_sq.to(torch.bfloat16)

    def add(self, grad: Tensor, step: int) -> None:
        state = (self.exp_avg, self.absmax, self.exp_avg_sq)
        adamw_8bit_step_(self.sum, grad, *state, step=step, learning_rate=1.0, seed=0)


class Both8Bit(Float32):
    """AdamW8bit of bitsandbytes: the second moment in the unsigned dynamic map, to nearest."""

    def add(self, grad: Tensor, step: int) -> None:
        super().add(grad, step)
        self.exp_avg = reference.dequantized(*reference.quantized(self.exp_avg))
        self.exp_avg_sq = through_unsigned_map(self.exp_avg_sq)


def through_unsigned_map(v: Tensor) -> Tensor:
    """v >= 0, whose size is a multiple of 256, as its codes say it."""
    values = [0.0, 1.0]
    for decade in range(7):
        boundaries = torch.linspace(0.1, 1, 2 ** (decade + 1) + 1)
        values += ((boundaries[1:] + boundaries[:-1]) / 2 * 10 ** (decade - 6)).tolist()
    values = torch.tensor(sorted(values))
    assert len(values) == 256
    blocks = v.view(-1, 256)
    absmax = blocks.amax(1, keepdim=True).clamp_min(1e-38)
    code = torch.bucketize(blocks / absmax, (values[1:] + values[:-1]) / 2)
    return (values[code] * absmax).view(v.shape)


def tiny_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"vocab_size": 256, "hidden_size": 64, "intermediate_size": 128}
    heads = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads, tie_word_embeddings=False))


def gradients(model: LlamaForCausalLM, parameters: dict[str, Tensor]):
    """STEPS times the gradient of repeating 16 random tokens, scaled down half way.

    The caller moves the parameters between two of them.
    """
    g = torch.Generator().manual_seed(1)
    for step in range(1, STEPS + 1):
        half = torch.randint(5, 250, (2, 16), generator=g)
        ids = torch.cat([half, half], 1)
        model.zero_grad()
        model(ids, labels=ids).loss.backward()
        scale = 1.0 if step < STEPS // 2 else 0.3  # does v follow?
        yield step, {name: p.grad * scale for name, p in parameters.items()}


def summed_updates() -> dict[type, dict[str, Float32]]:
    model = tiny_model()
    parameters = {name: p for name, p in model.named_parameters() if p.dim() == 2}
    start = {name: p.detach().clone() for name, p in parameters.items()}
    formats = (Float32, Ours, Both8Bit)
    sums = {kind: {name: kind(p.shape) for name, p in parameters.items()} for kind in formats}
    for step, grads in gradients(model, parameters):
        for by_name in sums.values():
            for name, grad in grads.items():
                by_name[name].add(grad, step)
        for name, p in parameters.items():
            p.data.copy_(start[name] + 1e-4 * sums[Float32][name].sum)
    return sums


def compared(sums: dict, kind: type, names: list[str]) -> tuple[float, float]:
    """Relative error of the summed updates, and their norm, to those of float32."""
    ours, exact = (
        torch.cat([sums[each][name].sum.view(-1).double() for name in names])
        for each in (kind, Float32)
    )
    return float((ours - exact).norm() / exact.norm()), float(ours.norm() / exact.norm())


def test_summed_updates_of_a_model_with_a_head_are_those_of_float32():
    sums = summed_updates()
    names = list(sums[Float32])
    head = [name for name in names if "lm_head" in name or "embed" in name]
    trunk = [name for name in names if name not in head]
    of = partial(compared, sums)
    for part in (["lm_head.weight"], head, trunk):
        error, norm_ratio = of(Ours, part)
        assert error <= 0.05 and abs(norm_ratio - 1) <= 0.05
    error, norm_ratio = of(Both8Bit, head)
    assert error > 1 and norm_ratio > 2
    assert of(Both8Bit, trunk)[0] < 0.05  # which is why it goes unnoticed
