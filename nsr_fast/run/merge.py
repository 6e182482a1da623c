"""`nsr-fast merge`: an adapter and its base become one checkpoint."""

from pathlib import Path

import torch

from nsr_fast.config_groups import LoraKeys, ModelKeys
from nsr_fast.errors import InputError
from nsr_fast.model.adapter_files import load_adapter, merge_adapters
from nsr_fast.model.load import load_policy, load_tokenizer, model_config
from nsr_fast.model.save import save_model
from nsr_fast.model.source import CONFIG, check_quantizable, find_source, trained_form

USAGE = """nsr-fast merge ADAPTER_DIR OUT_DIR [--dtype float32|bfloat16]

Writes a Hugging Face checkpoint with W + alpha / r B A in place of each adapted W, summed in
float32 and stored in --dtype (float32). Where the adapter was trained with quantize: nf4, W is what
the 4 bits stand for.
"""


def main(words: list[str]) -> None:
    """The verb. Raises InputError."""
    if words in (["-h"], ["--help"]):
        print(USAGE, end="")
        return
    dtype = "float32"
    if len(words) == 4 and words[2] == "--dtype":
        dtype = words[3]
    elif len(words) != 2:
        raise InputError("merge: write nsr-fast merge ADAPTER_DIR OUT_DIR [--dtype bfloat16]")
    if dtype not in ("float32", "bfloat16"):
        raise InputError(f"merge: --dtype: expected float32 or bfloat16, got {dtype!r}")
    merge(Path(words[0]).expanduser(), Path(words[1]).expanduser(), dtype)
    print(f"merged {words[0]} into {words[1]} ({dtype})")


def merge(adapter: Path, out: Path, dtype: str = "float32") -> None:
    """Merge the adapter in `adapter` into its base and save the model in `out`, a new folder."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"merge: {out} exists and is not an empty folder; choose another")
    if not (adapter / CONFIG).is_file():
        raise InputError(f"merge: {adapter} holds no {CONFIG}; expected an adapter")
    lora = LoraKeys(quantize=trained_form(adapter))
    source = find_source(ModelKeys(model=str(adapter), dtype="float32"), lora)
    model = source.keys.model
    tokenizer = load_tokenizer(model)
    check_quantizable(source, model_config(model))
    policy = load_policy(source.keys, source.shape)
    load_adapter(policy, source.adapter_folder)
    merged = merge_adapters(policy, load_policy(source.keys))
    out.mkdir(parents=True, exist_ok=True)
    save_model(out, merged.to(getattr(torch, dtype)))
    tokenizer.save_pretrained(out)
