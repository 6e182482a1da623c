"""One copy of the weights: the trainer's parameters become views into the engine's fused tensors.

vLLM stacks q|k|v and gate|up into one matrix each and pads the embedding rows; a row slice of those
tensors has exactly the shape of the Hugging Face parameter. After `share_weights` the optimizer's
in-place write IS the weight sync. The engine must still forget its prefix cache after every one.

On the CPU vLLM packs each weight into a private oneDNN buffer and drops the tensor;
`adopt_plain_weights` first gives every layer a plain tensor and a plain matrix product, after which
the CPU path equals CUDA.
"""

from collections.abc import Mapping

import torch
from torch import nn

from nsr_fast.errors import GuardStop, InputError

FAMILIES = ("qwen2", "qwen3", "llama")
_FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}


def check_family(model_type: str) -> None:
    """Raise InputError unless the architecture's engine layout is known."""
    if model_type not in FAMILIES:
        raise InputError(
            f"model: expected a checkpoint of the families {', '.join(FAMILIES)}, got model_type "
            f"{model_type!r}; use a Qwen2, Qwen3 or Llama model"
        )


def adopt_plain_weights(engine_model: nn.Module, source: Mapping[str, torch.Tensor]) -> int:
    """Give every packed CPU layer a plain weight again, filled from `source`; returns how many.

    source  Hugging Face name -> tensor, complete.  No effect on CUDA, where nothing is packed.
    """
    adopted = 0
    for name, module in engine_model.named_modules():
        if not hasattr(module, "cpu_linear"):
            continue
        if module.weight.numel() == 0:
            parts = [source[f"{part}.weight"] for part in _source_names(name)]
            module.weight = nn.Parameter(torch.cat(parts), requires_grad=False)
        module.cpu_linear = nn.functional.linear
        adopted += 1
    return adopted


def engine_views(engine_model: nn.Module, trainer_model: nn.Module) -> dict[str, torch.Tensor]:
    """Hugging Face parameter name -> the view of the engine's storage that holds it."""
    engine = dict(engine_model.named_parameters())
    offsets: dict[str, int] = {}
    views = {}
    for name, parameter in trainer_model.named_parameters():
        fused = _engine_name(name)
        if fused not in engine:
            raise InputError(f"shared weights: the engine has no tensor {fused!r} for {name!r}")
        tensor = engine[fused].data
        start = offsets.get(fused, 0)
        view = tensor[start : start + parameter.shape[0]]
        if view.shape != parameter.shape or view.dtype != parameter.dtype:
            raise InputError(
                f"shared weights: {name}: expected {tuple(parameter.shape)} {parameter.dtype} at "
                f"row {start} of the engine's {fused}, got {tuple(view.shape)} {view.dtype}"
            )
        offsets[fused] = start + parameter.shape[0]
        views[name] = view
    _check_all_rows_bound(engine, offsets)
    return views


def share_weights(engine_model: nn.Module, trainer_model: nn.Module) -> dict[str, torch.Tensor]:
    """Make every trainer parameter a view into the engine; each is checked by shape and value.

    Returns name -> view. Tied parameters stay tied. The trainer's own copies are freed.
    """
    source = dict(trainer_model.state_dict())
    adopt_plain_weights(engine_model, source)
    views = engine_views(engine_model, trainer_model)
    replacement = {}
    for name, parameter in trainer_model.named_parameters():
        if not torch.equal(views[name].to(parameter.device), parameter.data):
            raise GuardStop(f"shared weights: {name}: the engine loaded other values than we did")
        replacement[id(parameter)] = nn.Parameter(views[name], parameter.requires_grad)
    for module in trainer_model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                module._parameters[name] = replacement[id(parameter)]
    check_shared(engine_model, trainer_model)
    return views


def check_shared(engine_model: nn.Module, trainer_model: nn.Module) -> None:
    """Raise GuardStop unless every trainer parameter still lies in the engine's live tensors."""
    views = engine_views(engine_model, trainer_model)
    for name, parameter in trainer_model.named_parameters():
        if parameter.data_ptr() != views[name].data_ptr():
            raise GuardStop(
                f"stale weights: {name} no longer lies in the engine's memory; rollouts would come "
                "from old weights, so the run stops"
            )


def fingerprint(tensors: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """Exact 64-bit sum of the bit patterns of each tensor: equal weights, equal fingerprints."""
    integer = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return {
        name: int(t.detach().view(integer[t.element_size()]).sum(dtype=torch.int64))
        for name, t in tensors.items()
    }


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
            raise InputError(
                f"shared weights: {bound} of {tensor.shape[0]} rows of the engine's {name} belong "
                "to the trainer; the engine's layout is not the expected one"
            )
