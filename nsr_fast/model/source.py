"""What `model` names: a checkpoint, or the folder of an adapter and the checkpoint under it."""

import importlib.util
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import isclose
from pathlib import Path

from nsr_fast.config_groups import LoraKeys, ModelKeys
from nsr_fast.errors import InputError
from nsr_fast.model.layout import head_dim
from nsr_fast.model.nf4 import BLOCK
from nsr_fast.types import LINEARS, AdapterShape

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"  # PEFT's names
_UNREAD = ("use_dora", "modules_to_save", "rank_pattern", "alpha_pattern", "fan_in_fan_out")


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a policy comes from.

    keys            with `model` the checkpoint of all weights
    shape           of the adapters to train; plain: none
    adapter_folder  whose A and B are continued; None: new ones
    """

    keys: ModelKeys
    shape: AdapterShape
    adapter_folder: Path | None = None


def find_source(keys: ModelKeys, lora: LoraKeys) -> ModelSource:
    """Read the adapter's config where `model` is one. Raises InputError; loads no weights."""
    folder, shape = Path(keys.model), lora.shape
    if not (folder / CONFIG).is_file():
        if shape.quantize != "none" and not shape.rank:
            raise InputError(
                f"quantize: {shape.quantize} freezes the weights, and without adapters there is "
                "nothing to train; set lora_rank (16, say)"
            )
        return ModelSource(keys, shape)
    config, form = _read(folder), trained_form(folder)
    if form != "none" and shape.quantize != form:
        raise InputError(
            f"quantize: the adapter {folder} was trained on weights in {form}, got "
            f"{shape.quantize}; set quantize: {form} to continue it"
        )
    held = _shape_of(folder, config, lora.quantize)
    is_same = (shape.rank, shape.targets) == (held.rank, held.targets)
    if lora.lora_rank is not None and not (is_same and isclose(shape.scale, held.scale)):
        raise InputError(
            f"lora_rank: the adapter {folder} has rank {held.rank}, alpha {held.alpha:g} and "
            f"targets {', '.join(held.targets)}, got {shape.rank}, {shape.alpha:g} and "
            f"{', '.join(shape.targets)}; remove the lora_ keys to continue it"
        )
    base = os.path.expanduser(str(config.get("base_model_name_or_path") or ""))
    if not base:
        raise InputError(f"model: {folder / CONFIG} names no base_model_name_or_path; add it")
    return ModelSource(keys.model_copy(update={"model": base}), held, folder)


def check_quantizable(source: ModelSource, config) -> None:
    """Raise InputError unless the projections of this config can be held as `quantize` says."""
    if source.shape.quantize == "none":
        return
    if importlib.util.find_spec("bitsandbytes") is None:
        raise InputError('quantize: bitsandbytes is not installed: pip install "nsr_fast[qlora]"')
    if getattr(config, "quantization_config", None) is not None:
        raise InputError("quantize: the checkpoint is quantised already; use a plain one")
    heads = config.num_attention_heads * head_dim(config)
    widths = {
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "attention heads x head_dim": heads,
    }
    for name, width in widths.items():
        if width % BLOCK:
            raise InputError(
                f"quantize: nf4 holds rows in blocks of {BLOCK}, and {name} is {width} in this "
                "model; set quantize: none"
            )


def saved_shapes(folder: Path) -> dict[str, list[int]]:
    """Shape of every tensor of an adapter's file, by name; reads no values. Raises InputError."""
    with _opened(folder) as file:
        return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118


def trained_form(folder: Path) -> str:
    """`quantize` of the run that saved the adapter; "none" where its file does not say."""
    with _opened(folder) as file:
        return (file.metadata() or {}).get("quantize", "none")


@contextmanager
def _opened(folder: Path) -> Iterator:
    from safetensors import SafetensorError, safe_open

    if not (folder / WEIGHTS).is_file():
        raise InputError(f"model: {folder} holds {CONFIG} but no {WEIGHTS}")
    try:
        with safe_open(folder / WEIGHTS, "pt") as file:
            yield file
    except SafetensorError as error:
        raise InputError(f"model: {folder / WEIGHTS} cannot be read: {error}") from None


def _read(folder: Path) -> dict:
    try:
        config = json.loads((folder / CONFIG).read_text())
    except ValueError as error:
        raise InputError(f"model: {folder / CONFIG} is not JSON: {error}") from None
    if config.get("peft_type") != "LORA":
        raise InputError(f"model: {folder}: expected a LORA adapter, got {config.get('peft_type')}")
    for key in ("r", "lora_alpha"):
        if not isinstance(value := config.get(key), int | float) or value <= 0:
            got = f"expected {key} above 0, got {value!r}"
            raise InputError(f"model: {folder / CONFIG}: {got}")
    unread = [key for key in _UNREAD if config.get(key)]
    if unread or config.get("bias", "none") != "none":
        raise InputError(
            f"model: the adapter {folder} uses {(unread or ['bias'])[0]}, which is not read here; "
            "merge it into its base with peft and train from that"
        )
    return config


def _shape_of(folder: Path, config: dict, quantize: str) -> AdapterShape:
    names = [name for name in saved_shapes(folder) if ".lora_A." in name]
    found = {name.partition(".lora_A.")[0].rpartition(".")[2] for name in names}
    if unknown := found - set(LINEARS):
        raise InputError(
            f"model: the adapter {folder} adapts {min(unknown)}; expected some of "
            f"{', '.join(LINEARS)}"
        )
    rank = config["r"]
    root = rank**0.5 if config.get("use_rslora") else rank
    targets = tuple(name for name in LINEARS if name in found)
    return AdapterShape(rank, config["lora_alpha"] / root, targets, quantize)
