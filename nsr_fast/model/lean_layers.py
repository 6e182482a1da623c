"""RMSNorm and the gated MLP of Qwen2, Qwen3 and Llama, keeping less for the backward pass.

    norm(x) = weight * (x * rstd)      rstd = 1 / sqrt(mean(x^2) + eps)
    mlp(x)  = down(silu(gate(x)) * up(x))

The forward runs the operations of transformers' modules in their order, so its bits are theirs.
Norms keep x and rstd, MLPs gate and up; the linears compute their inputs again from those
(recompute.py). Bytes kept for each token and layer, for H hidden, I intermediate, Q and K heads
times head_dim, b bytes of the dtype:

    b (2I + 2H + 2Q + 2K) + 4 heads + 8      and with Qwen3's q_norm and k_norm
                                             b (Q + K) + 4 (heads + key heads)

2H are the norms' inputs, 2Q + 2K the attention's q, k, v and output, 4 heads its log-sum-exp, the
rest is rstd. Once a token: b H + 4 for the final norm, 2 b head_dim for rotary's cos and sin.
"""

from types import MethodType

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.functional import silu
from transformers import PreTrainedModel
from transformers.activations import ACT2FN

from nsr_fast.model.recompute import lean_linear, with_recipe

_NORMS = ("Qwen2RMSNorm", "Qwen3RMSNorm", "LlamaRMSNorm")
_MLPS = ("Qwen2MLP", "Qwen3MLP", "LlamaMLP")
_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def lean_layers(policy: PreTrainedModel) -> PreTrainedModel:
    """Replace the forward of the policy's norms, MLPs and plain linears; returns the policy.

    Parameters and their names stay. A linear of another class keeps its forward, and saves its
    input unless that calls lean_linear. An MLP whose activation is not silu stays as it is.
    """
    for name, module in policy.named_modules():
        kind = type(module).__name__
        if kind in _NORMS:
            module.forward = MethodType(_norm_forward, module)
        elif kind in _MLPS and isinstance(module.act_fn, (nn.SiLU, type(ACT2FN["silu"]))):
            module.forward = MethodType(_mlp_forward, module)
        elif type(module) is nn.Linear and name.rpartition(".")[2] in _LINEARS:
            module.forward = MethodType(_linear_forward, module)
    return policy


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """weight * (x * rstd), the bracket in float32 (float64 for float64) and rounded to x's dtype.

    x [..., H]   weight [H] of the same dtype   Returns [..., H]   Saved: x, weight, rstd [..., 1]
    """
    if not torch.is_grad_enabled():
        return _scaled(x, _rstd(x, eps), weight)
    normed, rstd = _RmsNorm.apply(x, weight, eps)
    return with_recipe(normed, _scaled, (x, rstd, weight))


def silu_mul(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up for tensors of one shape and dtype. Saved: gate and up."""
    if not torch.is_grad_enabled():
        return _gated(gate, up)
    return with_recipe(_SiluMul.apply(gate, up), _gated, (gate, up))


class _RmsNorm(Function):
    @staticmethod
    def forward(ctx, x, weight, eps):
        rstd = _rstd(x, eps)
        ctx.save_for_backward(x, weight, rstd)
        ctx.mark_non_differentiable(rstd)
        return _scaled(x, rstd, weight), rstd

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, _):
        # with n = x rstd and s = grad weight:  dx = rstd (s - n mean(s n)),  dweight = sum grad n
        x, weight, rstd = ctx.saved_tensors
        normal = x * rstd
        dx = dweight = None
        if ctx.needs_input_grad[1]:
            dweight = (grad * normal).flatten(0, -2).sum(0).to(weight.dtype)
        if ctx.needs_input_grad[0]:
            scaled = grad.to(rstd.dtype) * weight
            shared = (scaled * normal).mean(-1, keepdim=True)
            dx = scaled.addcmul_(normal, shared, value=-1).mul_(rstd).to(x.dtype)
        return dx, dweight, None


class _SiluMul(Function):
    @staticmethod
    def forward(ctx, gate, up):
        ctx.save_for_backward(gate, up)
        return _gated(gate, up)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        gate, up = ctx.saved_tensors
        dgate = dup = None
        if ctx.needs_input_grad[1]:
            dup = silu(gate).mul_(grad)
        if ctx.needs_input_grad[0]:
            dgate = torch.ops.aten.silu_backward(grad * up, gate)
        return dgate, dup


def _norm_forward(self, hidden_states: Tensor) -> Tensor:
    return rms_norm(hidden_states, self.weight, self.variance_epsilon)


def _mlp_forward(self, x: Tensor) -> Tensor:
    return self.down_proj(silu_mul(self.gate_proj(x), self.up_proj(x)))


def _linear_forward(self, x: Tensor) -> Tensor:
    return lean_linear(x, self.weight, self.bias)


def _rstd(x: Tensor, eps: float) -> Tensor:
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)


def _scaled(x: Tensor, rstd: Tensor, weight: Tensor) -> Tensor:
    return weight * (x * rstd).to(x.dtype)


def _gated(gate: Tensor, up: Tensor) -> Tensor:
    return silu(gate).mul_(up)
