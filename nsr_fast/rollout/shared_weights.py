"""One copy of the weights: the trainer's parameters become views into the engine's fused tensors.

vLLM stacks q|k|v and gate|up into one matrix each and pads the embedding rows; a row slice of those
tensors has exactly the shape of the Hugging Face parameter. After `share_weights` the optimizer's
in-place write IS the weight sync. The engine must still forget its prefix cache after every one.

On the CPU vLLM packs each weight into a private oneDNN buffer and drops the tensor; a layout first
gives every such layer a plain tensor and a plain matrix product, after which the CPU equals CUDA.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from nsr_fast.errors import GuardStop, InputError

FAMILIES = ("qwen2", "qwen3", "llama")
_FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}


class LayoutUnknown(Exception):
    """The engine's tensors cannot hold the trainer's parameters as row slices; says why."""


def check_family(model_type: str) -> None:
    """Raise InputError unless the architecture's engine layout is known."""
    if model_type not in FAMILIES:
        raise InputError(
            f"model: expected a checkpoint of the families {', '.join(FAMILIES)}, got model_type "
            f"{model_type!r}; use a Qwen2, Qwen3 or Llama model"
        )


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the engine holds each trainer parameter. `unpack` makes packed CPU layers plain."""

    views: Mapping[str, torch.Tensor]  # Hugging Face parameter name -> row slice of the engine's
    packed: Mapping[str, torch.Tensor]  # module name -> plain weight to be, not filled yet

    def unpack(self, engine_model: nn.Module, source: Mapping[str, torch.Tensor]) -> None:
        """Fill and install the plain weights, from Hugging Face names; nothing to do on CUDA."""
        for name, module in engine_model.named_modules():
            if name in self.packed:
                parts = [source[f"{part}.weight"] for part in _source_names(name)]
                torch.cat(parts, out=self.packed[name])
                module.weight = nn.Parameter(self.packed[name], requires_grad=False)
            if hasattr(module, "cpu_linear"):
                module.cpu_linear = nn.functional.linear


def find_layout(engine_model: nn.Module, trainer_model: nn.Module) -> Layout:
    """Match names, shapes and dtypes of both sides; changes nothing. Raises LayoutUnknown."""
    packed = _packed_weights(engine_model, trainer_model.state_dict())
    engine = {name: parameter.data for name, parameter in engine_model.named_parameters()}
    engine |= {f"{name}.weight": weight for name, weight in packed.items()}
    offsets: dict[str, int] = {}
    views = {}
    for name, parameter in trainer_model.named_parameters():
        fused = _engine_name(name)
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
    return Layout(views, packed)


@dataclass(frozen=True, slots=True)
class Binding:
    """Where one parameter of the trainer or the engine has to lie."""

    name: str
    module: nn.Module
    attribute: str
    address: int


def share_weights(engine_model: nn.Module, trainer_model: nn.Module) -> list[Binding]:
    """Make every trainer parameter a view into the engine; each is checked by shape and value.

    Tied parameters stay tied. The trainer's own copies are freed. Returns what check_shared reads.
    Raises LayoutUnknown before anything is changed.
    """
    layout = find_layout(engine_model, trainer_model)
    layout.unpack(engine_model, trainer_model.state_dict())
    views = layout.views
    check_equal(views, trainer_model)
    replacement = {
        id(parameter): nn.Parameter(views[name], parameter.requires_grad)
        for name, parameter in trainer_model.named_parameters()
    }
    for module in trainer_model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                module._parameters[name] = replacement[id(parameter)]
    for name, parameter in trainer_model.named_parameters():
        if parameter.data_ptr() != views[name].data_ptr():
            raise GuardStop(f"shared weights: {name} does not lie in the engine's memory")
    return _bindings(engine_model) + _bindings(trainer_model)


def check_shared(bindings: Sequence[Binding]) -> None:
    """Raise GuardStop unless both sides' parameters still lie where share_weights put them.

    The same memory holds the same values, so none is read: well below a millisecond.
    """
    for binding in bindings:
        if binding.module._parameters[binding.attribute].data_ptr() != binding.address:
            raise GuardStop(
                f"stale weights: {binding.name} left the memory that trainer and engine share; "
                "rollouts would come from old weights, so the run stops"
            )


def check_equal(views: Mapping[str, torch.Tensor], trainer_model: nn.Module) -> None:
    """Raise GuardStop unless the engine's fingerprint is the trainer's."""
    expected = fingerprint(dict(trainer_model.named_parameters()))
    got = fingerprint(views)
    different = [name for name in expected if got[name] != expected[name]]
    if different:
        raise GuardStop(
            f"stale weights: the engine's {different[0]} (and {len(different) - 1} more) differs "
            "from the trainer's; rollouts would come from other weights, so the run stops"
        )


def fingerprint(tensors: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """Exact 64-bit sum of the bit patterns of each tensor: equal weights, equal fingerprints."""
    integer = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return {
        name: int(t.detach().view(integer[t.element_size()]).sum(dtype=torch.int64))
        for name, t in tensors.items()
    }


def _bindings(model: nn.Module) -> list[Binding]:
    return [
        Binding(f"{prefix}.{name}", module, name, parameter.data_ptr())
        for prefix, module in model.named_modules()
        for name, parameter in module._parameters.items()
        if parameter is not None
    ]


def _packed_weights(
    engine_model: nn.Module, source: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """An empty plain weight for every layer whose tensor vLLM's CPU backend has dropped."""
    packed = {}
    for name, module in engine_model.named_modules():
        if not hasattr(module, "cpu_linear") or module.weight.numel():
            continue
        parts = [source.get(f"{part}.weight") for part in _source_names(name)]
        if any(part is None or part.dim() != 2 for part in parts):
            raise LayoutUnknown(f"the trainer has no matrices for the engine's {name}")
        shape = sum(len(part) for part in parts), parts[0].shape[1]
        if shape != (module.output_size, module.input_size):
            expected = (module.output_size, module.input_size)
            raise LayoutUnknown(f"{name}: expected {expected} in the trainer, got {shape}")
        packed[name] = torch.empty(shape, dtype=parts[0].dtype)
    return packed


def _engine_name(name: str) -> str:
    for fused, parts in _FUSED.items():
        for part in parts:
            if f".{part}." in name:
                return name.replace(f".{part}.", f".{fused}.")
    return name


def _source_names(module_name: str) -> list[str]:
    head, _, last = module_name.rpartition(".")
    return [f"{head}.{part}" for part in _FUSED[last]] if last in _FUSED else [module_name]


def _check_all_rows_bound(engine: Mapping[str, torch.Tensor], rows: Mapping[str, int]) -> None:
    for name, tensor in engine.items():
        padded = name.endswith(("embed_tokens.weight", "lm_head.weight"))
        bound = rows.get(name, 0)
        if bound != tensor.shape[0] and not (padded and 0 < bound < tensor.shape[0]):
            raise LayoutUnknown(
                f"{bound} of {tensor.shape[0]} rows of the engine's {name} belong to the trainer"
            )
