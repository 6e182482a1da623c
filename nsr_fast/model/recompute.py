"""A linear that computes its input again in the backward pass instead of keeping it.

    y = x W^T      dW = dy^T f(sources)      where x = f(sources) and f is cheap

Who makes x attaches f and the sources, which are kept for x's own backward anyway (with_recipe);
lean_linear finds them and saves those, by save_for_backward, so that gradient checkpointing and
hooks on saved tensors see them. Gradients flow through x as always; the sources get none from here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear


class _Computation:
    """f, and its value from the first linear of a backward pass until the last of its users."""

    def __init__(self, compute: Callable[..., Tensor]):
        self.compute, self.users, self.value = compute, 0, None

    def take(self, sources: Sequence[Tensor]) -> Tensor:
        value = self.compute(*sources) if self.value is None else self.value
        self.users -= 1
        self.value = value if self.users > 0 else None
        return value


@dataclass(frozen=True, slots=True)
class Recipe:
    """compute(*sources) equals the tensor it is attached to while that has this version."""

    computation: _Computation
    sources: tuple[Tensor, ...]
    version: int


def with_recipe(x: Tensor, compute: Callable[..., Tensor], sources: Sequence[Tensor]) -> Tensor:
    """Attach to x how it was made, where a graph is recorded; returns x.

    compute(*sources) must give x bit for bit; sources should be tensors that are saved already.
    """
    if torch.is_grad_enabled():
        detached = tuple(source.detach() for source in sources)
        x.nsr_recipe = Recipe(_Computation(compute), detached, x._version)
    return x


def lean_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """torch's linear; where x or the tensor it is a reshape of has a recipe, x is not kept.

    x [..., in]   weight [out, in]   bias [out] or None   Returns [..., out]
    Saved   weight, and if it is trained the recipe's sources; without a recipe what torch saves
    """
    is_trained = weight.requires_grad and torch.is_grad_enabled()
    recipe = _recipe_of(x) if is_trained else None
    if recipe is None:
        return linear(x, weight, bias)
    recipe.computation.users += 1
    return _RecomputedInput.apply(x, weight, bias, recipe.computation, *recipe.sources)


def _recipe_of(x: Tensor) -> Recipe | None:
    made = x if x._base is None else x._base
    recipe = getattr(made, "nsr_recipe", None)
    is_whole = x.numel() == made.numel() and x.is_contiguous() and made.is_contiguous()
    return recipe if recipe and is_whole and recipe.version == x._version else None


class _RecomputedInput(Function):
    @staticmethod
    def forward(ctx, x, weight, bias, computation, *sources):
        ctx.computation = computation
        ctx.save_for_backward(weight, *sources)
        return linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        weight, *sources = ctx.saved_tensors
        rows = grad.flatten(0, -2)
        dx = grad @ weight if ctx.needs_input_grad[0] else None
        dweight = rows.T @ ctx.computation.take(sources).reshape(-1, weight.shape[1])
        dbias = rows.sum(0) if ctx.needs_input_grad[2] else None
        return dx, dweight, dbias, None, *[None] * len(sources)
