"""The model families we know, and under which names an engine holds their parameters.

vLLM stacks q|k|v and gate|up into one matrix each; every other name is Hugging Face's.
"""

from nsr_fast.errors import InputError

FAMILIES = ("qwen2", "qwen3", "llama")
_FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}


def check_family(model_type: str) -> None:
    """Raise InputError unless the architecture's engine layout is known."""
    if model_type not in FAMILIES:
        raise InputError(
            f"model: expected a checkpoint of the families {', '.join(FAMILIES)}, got model_type "
            f"{model_type!r}; use a Qwen2, Qwen3 or Llama model"
        )


def engine_name(name: str) -> str:
    """The engine's tensor that holds the policy's parameter `name`."""
    for fused, parts in _FUSED.items():
        for part in parts:
            if f".{part}." in name:
                return name.replace(f".{part}.", f".{fused}.")
    return name


def policy_names(module_name: str) -> list[str]:
    """The policy's modules whose weights, one below the other, make the engine's module."""
    head, _, last = module_name.rpartition(".")
    return [f"{head}.{part}" for part in _FUSED[last]] if last in _FUSED else [module_name]


def head_dim(config) -> int:
    """Width of one attention head of a transformers config."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
