"""The memory plan of a run from its settings: for `nsr-fast plan`, and before weights are loaded.

`nsr-fast plan` reads the model's config.json only and takes the longest sequence from
max_prompt_length; a run knows its longest prompt.
"""

from collections.abc import Sequence

from nsr_fast.config import Config
from nsr_fast.errors import InputError
from nsr_fast.memory.limit import cuda_free_bytes, host_free_bytes
from nsr_fast.memory.plan import Limits, MemoryPlan, Wishes, plan_memory
from nsr_fast.memory.shape import model_shape
from nsr_fast.memory.table import plan_table
from nsr_fast.memory.terms import GIB, Setup
from nsr_fast.model.load import model_config
from nsr_fast.model.source import find_source
from nsr_fast.rollout.engine import engine_reasons, resolve_engine
from nsr_fast.types import Prompt

_GB = 10**9


def plan_of(
    config: Config,
    prompts: Sequence[Prompt] = (),
    *,
    vocab: int | None = None,
    device: str | None = None,
) -> MemoryPlan:
    """What fits where the run is to be; device None: that of this machine.

    prompts   of the run; empty: as long as max_prompt_length
    vocab     rows of the head that belong to a token; None: all
    Raises    InputError when it cannot fit
    """
    import torch

    here = "cuda" if torch.cuda.is_available() else "cpu"
    memory, setup = config.memory, _setup(config, prompts, vocab, device or here)
    wishes = Wishes(
        micro_batch_tokens=_given(memory.micro_batch_tokens),
        gradient_checkpointing=_given(memory.gradient_checkpointing),
        activation_offload=_given(memory.activation_offload),
        kv_bytes=None if memory.kv_cache_gib == "auto" else int(memory.kv_cache_gib * GIB),
    )
    return plan_memory(setup, wishes, _limits(config, setup.device, here))


def print_plan(config: Config, device: str | None) -> None:
    """The page behind `nsr-fast plan`; device None: a card where device_memory_gb is given."""
    if device not in (None, "cpu", "cuda"):
        raise InputError(f"--device: expected cpu or cuda, got {device!r}")
    if device is None and config.memory.device_memory_gb:
        device = "cuda"
    print("\n".join(plan_table(plan_of(config, device=device))))


def _given(value: object) -> object:
    return None if value == "auto" else value


def _setup(config: Config, prompts: Sequence[Prompt], vocab: int | None, device: str) -> Setup:
    keys, sampling, round_keys = config.memory, config.sampling, config.round
    context = config.data.max_prompt_length + sampling.max_completion_length
    longest = max((len(prompt.token_ids) for prompt in prompts), default=0)
    longest = longest + sampling.max_completion_length if longest else context
    rollouts = round_keys.prompts_per_round * sampling.num_generations
    per_step = -(-rollouts // config.objective.minibatches)
    dtype, source = config.model.dtype, find_source(config.model, config.lora)
    is_half = dtype == "bfloat16" or (dtype == "auto" and device == "cuda")
    return Setup(
        shape=model_shape(model_config(source.keys.model).to_dict()),
        device=device,
        itemsize=2 if is_half else 4,
        logits_itemsize=4 if config.model.logits_dtype == "float32" else None,
        engine=_engine(config, device),
        longest=longest,
        context=context,
        sequences=min(config.engine.max_num_seqs, rollouts),
        valid_vocab=vocab,
        max_tokens=per_step * longest,
        share_weights=config.engine.share_weights,
        optim=config.optimizer.optim,
        master_weights=config.optimizer.master_weights,
        offload=keys.offload,
        adapter=source.shape,
    )


def _engine(config: Config, device: str) -> str:
    """A plan for another machine needs no vLLM here."""
    name = config.engine.engine
    if device == "cuda" and engine_reasons()["vllm"] and name != "transformers":
        return "vllm"
    return resolve_engine(name)


def _limits(config: Config, device: str, here: str) -> Limits:
    given, host = config.memory.device_memory_gb, host_free_bytes()
    if given:
        is_here = device == here
        return Limits(int(given * _GB), host if is_here else None, "device_memory_gb")
    if device == "cuda" and here == "cuda":
        return Limits(cuda_free_bytes(), host, "free on the device")
    if device == "cuda":
        raise InputError("device_memory_gb: this machine has no CUDA device; say how much one has")
    if host is None:
        raise InputError("device_memory_gb: this system does not say what is free; set it")
    return Limits(host, None, "free on this machine and in its cgroup")
