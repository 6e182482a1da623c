"""One copy of the weights: the policy's parameters become views into the engine's fused tensors.

vLLM stacks q|k|v and gate|up into one matrix each and pads the embedding rows; a row slice of those
tensors has exactly the shape of the Hugging Face parameter. After `share_weights` the optimizer's
in-place write IS the weight sync. The engine must still forget its prefix cache after every one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from nsr_fast.errors import GuardStop
from nsr_fast.model.layout import engine_name
from nsr_fast.model.load import fill_buffers


class LayoutUnknown(Exception):
    """The engine's tensors cannot hold the policy's parameters as row slices; says why."""


def find_views(engine_model: nn.Module, policy: nn.Module) -> dict[str, torch.Tensor]:
    """The row slice of the engine's tensors for each parameter of the policy, by its name.

    Names, shapes and dtypes of both sides must match; changes nothing. Raises LayoutUnknown.
    """
    engine = {name: parameter.data for name, parameter in engine_model.named_parameters()}
    offsets: dict[str, int] = {}
    views = {}
    for name, parameter in policy.named_parameters():
        fused = engine_name(name)
        if fused not in engine:
            raise LayoutUnknown(f"the engine has no tensor {fused!r} for {name!r}")
        start = offsets.get(fused, 0)
        view = engine[fused][start : start + parameter.shape[0]]
        if view.shape != parameter.shape or view.dtype != parameter.dtype:
            raise LayoutUnknown(
                f"{name}: expected {tuple(parameter.shape)} {parameter.dtype} at row {start} of "
                f"the engine's {fused}, got {tuple(view.shape)} {view.dtype}"
            )
        offsets[fused] = start + parameter.shape[0]
        views[name] = view
    _check_all_rows_bound(engine, offsets)
    return views


@dataclass(frozen=True, slots=True)
class Binding:
    """Where one parameter of the policy or the engine has to lie."""

    name: str
    module: nn.Module
    attribute: str
    address: int


def share_weights(engine_model: nn.Module, policy: nn.Module) -> list[Binding]:
    """Make every policy parameter a view into the engine; each is checked by shape.

    A policy on the meta device takes the values that the engine loaded; one with values of its own
    must have the same, and gives its copies up. Tied parameters stay tied. Returns what
    check_shared reads. Raises LayoutUnknown before anything is changed.
    """
    views = find_views(engine_model, policy)
    if is_empty(policy):
        fill_buffers(policy, next(iter(views.values())).device)
    else:
        check_equal(views, policy)
    replacement = {
        id(parameter): nn.Parameter(views[name], parameter.requires_grad)
        for name, parameter in policy.named_parameters()
    }
    for module in policy.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                module._parameters[name] = replacement[id(parameter)]
    for name, parameter in policy.named_parameters():
        if parameter.data_ptr() != views[name].data_ptr():
            raise GuardStop(f"shared weights: {name} does not lie in the engine's memory")
    return _bindings(engine_model) + _bindings(policy)


def check_shared(bindings: Sequence[Binding]) -> None:
    """Raise GuardStop unless both sides' parameters still lie where share_weights put them.

    The same memory holds the same values, so none is read: well below a millisecond.
    """
    for binding in bindings:
        if binding.module._parameters[binding.attribute].data_ptr() != binding.address:
            raise GuardStop(
                f"stale weights: {binding.name} left the memory that policy and engine share; "
                "rollouts would come from old weights, so the run stops"
            )


def check_equal(views: Mapping[str, torch.Tensor], policy: nn.Module) -> None:
    """Raise GuardStop unless the engine's fingerprint is the policy's."""
    expected = fingerprint(dict(policy.named_parameters()))
    got = fingerprint(views)
    different = [name for name in expected if got[name] != expected[name]]
    if different:
        raise GuardStop(
            f"stale weights: the engine's {different[0]} (and {len(different) - 1} more) differs "
            "from the policy's; rollouts would come from other weights, so the run stops"
        )


def fingerprint(tensors: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """Exact 64-bit sum of the bit patterns of each tensor: equal weights, equal fingerprints."""
    integer = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return {
        name: int(t.detach().view(integer[t.element_size()]).sum(dtype=torch.int64))
        for name, t in tensors.items()
    }


def is_empty(policy: nn.Module) -> bool:
    """Whether it is on the meta device and waits for the engine's tensors."""
    return any(parameter.is_meta for parameter in policy.parameters())


def _bindings(model: nn.Module) -> list[Binding]:
    return [
        Binding(f"{prefix}.{name}", module, name, parameter.data_ptr())
        for prefix, module in model.named_modules()
        for name, parameter in module._parameters.items()
        if parameter is not None
    ]


def _check_all_rows_bound(engine: Mapping[str, torch.Tensor], rows: Mapping[str, int]) -> None:
    for name, tensor in engine.items():
        padded = name.endswith(("embed_tokens.weight", "lm_head.weight"))
        bound = rows.get(name, 0)
        if bound != tensor.shape[0] and not (padded and 0 < bound < tensor.shape[0]):
            raise LayoutUnknown(
                f"{bound} of {tensor.shape[0]} rows of the engine's {name} belong to the policy"
            )
