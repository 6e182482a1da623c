"""What fits: tokens of one pass, checkpointing, the KV cache, from the terms and a limit.

    peak = always + max(update, rollout) <= limit
    activations    to the host on CUDA if the longest sequence fits in no other way
    checkpointing  off if the longest sequence (and a good pass) fits without it, else on
    tokens         0.9 (limit - always - gradients - tile) / bytes a token, at most 65,536 on CUDA;
                   on the CPU 1,024, to stay modest by default; at least the longest sequence
    KV cache       CUDA: limit - always - workspace; CPU: at most 1 GiB, since it stays during the
                   update; never beyond every sequence at full length, never below one of them
A run that cannot fit is refused: the first term that does not, and the key to change.
"""

import dataclasses
import math
from dataclasses import dataclass

from nsr_fast.errors import InputError
from nsr_fast.memory import terms
from nsr_fast.memory.terms import GIB, Setup

_MOST_TOKENS = {"cuda": 65536, "cpu": 1024}
_GOOD_PASS = {"cuda": 4096, "cpu": 1024}  # tokens that are worth more than no checkpointing
_SLACK = 0.9
CPU_BLOCK_TOKENS = 32  # of vLLM's cache: rollout/vllm_start.py
_CPU_KV_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Wishes:
    """Settings that may be given; None: chosen here. kv_bytes 0: of no interest."""

    micro_batch_tokens: int | None = None
    gradient_checkpointing: bool | None = None
    kv_bytes: int | None = None
    activation_offload: bool | None = False


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes that may be used. where: device_memory_gb, or what was measured."""

    device: int
    host: int | None  # None: not known, or the same memory
    where: str


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """The numbers of a run and what they rest on."""

    setup: Setup
    limits: Limits
    tokens: int  # micro_batch_tokens
    is_checkpointed: bool
    kv_bytes: int

    @property
    def pass_tokens(self) -> int:
        """Of the largest pass that the settings allow: a longer sequence goes alone."""
        most = max(self.tokens, self.setup.longest)
        return min(most, max(self.setup.max_tokens or most, self.setup.longest))

    @property
    def always(self) -> dict[str, int]:
        """Term by term."""
        s = self.setup
        found = {"weights": terms.weight_bytes(s)}
        if s.device == "cpu" or s.offload == "none":
            found["optimizer state"] = terms.state_bytes(s)
        if s.device == "cpu":
            found["gradients on the host"] = terms.gradient_bytes(s)[1]
            if s.engine == "vllm":
                found["KV cache"] = self.kv_bytes
        found["reserve"] = terms.reserve_bytes(s)
        return {name: size for name, size in found.items() if size}

    def update(self, tokens: int | None = None, is_checkpointed: bool | None = None) -> dict:
        """Term by term, of a pass of so many tokens."""
        s, tokens = self.setup, self.pass_tokens if tokens is None else tokens
        is_on = self.is_checkpointed if is_checkpointed is None else is_checkpointed
        return {
            "gradients": terms.gradient_bytes(s)[0],
            "activations": tokens * terms.token_bytes(s, is_on),
            "head tile": terms.tile_bytes(s, tokens),
        }

    @property
    def rollout(self) -> dict[str, int]:
        """Term by term."""
        found = {"engine workspace": terms.workspace_bytes(self.setup)}
        if "KV cache" not in self.always:
            found["KV cache"] = self.kv_bytes
        return found

    def peak(self, tokens: int | None = None, is_checkpointed: bool | None = None) -> int:
        """Predicted, of a round whose largest pass has so many tokens."""
        update = sum(self.update(tokens, is_checkpointed).values())
        return sum(self.always.values()) + max(update, sum(self.rollout.values()))

    @property
    def kv_tokens(self) -> int:
        return self.kv_bytes // terms.kv_token_bytes(self.setup.shape, self.setup.itemsize)

    @property
    def host(self) -> dict[str, int]:
        """Of the host's memory while the device is CUDA; empty when nothing is put there."""
        s = self.setup
        if s.device == "cpu":
            return {}
        found = {
            "optimizer state and gradients": terms.host_state_bytes(s),
            "activations": self.pass_tokens * terms.offloaded_token_bytes(s),
        }
        return {name: size for name, size in found.items() if size}


def plan_memory(setup: Setup, wishes: Wishes, limits: Limits) -> MemoryPlan:
    """The plan of a run. InputError with the term that does not fit and the key to change."""
    wanted = wishes.activation_offload
    setup = dataclasses.replace(setup, activation_offload=bool(wanted))
    may_offload = setup.device == "cuda" and wishes.gradient_checkpointing is not False
    try:
        return _plan(setup, wishes, limits)
    except InputError as refused:
        if wanted is not None or not may_offload:
            raise
        try:
            return _plan(dataclasses.replace(setup, activation_offload=True), wishes, limits)
        except InputError:
            raise refused from None


def _plan(setup: Setup, wishes: Wishes, limits: Limits) -> MemoryPlan:
    kv_bytes = _kv_bytes(setup, wishes, limits)
    plan = MemoryPlan(setup, limits, 1, bool(wishes.gradient_checkpointing), kv_bytes)
    _check_always(plan, wishes)
    is_on = _checkpoints(plan, wishes)
    tokens = wishes.micro_batch_tokens or _tokens(plan, is_on)
    plan = MemoryPlan(setup, limits, tokens, is_on, kv_bytes)
    _check_pass(plan, wishes)
    _check_rollout(plan, wishes)
    _check_host(plan)
    return plan


def tokens_that_fit(plan: MemoryPlan, is_checkpointed: bool) -> int:
    """Of one pass, beside everything else, with a tenth to spare."""
    update = plan.update(1 << 30, is_checkpointed)
    fixed = sum(plan.always.values()) + update["gradients"] + update["head tile"]
    left = _SLACK * (plan.limits.device - fixed)
    return max(0, int(left / terms.token_bytes(plan.setup, is_checkpointed)))


def _checkpoints(plan: MemoryPlan, wishes: Wishes) -> bool:
    if wishes.gradient_checkpointing is not None:
        return wishes.gradient_checkpointing
    if plan.setup.activation_offload:
        return True
    device = plan.setup.device
    wanted = wishes.micro_batch_tokens or _GOOD_PASS[device]
    if plan.setup.max_tokens:
        wanted = min(wanted, plan.setup.max_tokens)
    return tokens_that_fit(plan, False) < max(wanted, plan.setup.longest)


def _tokens(plan: MemoryPlan, is_checkpointed: bool) -> int:
    most = max(_MOST_TOKENS[plan.setup.device], plan.setup.longest)
    return max(min(tokens_that_fit(plan, is_checkpointed), most), 1)


def _kv_bytes(s: Setup, wishes: Wishes, limits: Limits) -> int:
    """Of the KV cache, or of the cache that transformers grows during one batch."""
    token = terms.kv_token_bytes(s.shape, s.itemsize)
    if s.engine == "transformers":
        return s.sequences * s.longest * token
    if wishes.kv_bytes is not None:
        return wishes.kv_bytes
    if s.device == "cpu":
        return cpu_kv_bytes(token, s.sequences, s.longest, s.context or s.longest)
    most = s.sequences * (s.longest + 32) * token
    fixed = terms.weight_bytes(s) + terms.reserve_bytes(s) + terms.workspace_bytes(s)
    if s.offload == "none":
        fixed += terms.state_bytes(s)
    return max(min(limits.device - fixed, most), 0)


def cpu_kv_bytes(token_bytes: int, sequences: int, longest: int, context: int) -> int:
    """vLLM's KV cache on the CPU: every sequence at full length, at most 1 GiB, at least one
    sequence of `context` tokens; a block beside each for what it shares badly."""
    one, least = (
        (math.ceil(tokens / CPU_BLOCK_TOKENS) + 1) * CPU_BLOCK_TOKENS * token_bytes
        for tokens in (longest, context)
    )
    return max(least, min(sequences * one, _CPU_KV_BYTES))


def _check_always(plan: MemoryPlan, wishes: Wishes) -> None:
    cures = {
        "weights": "take a smaller model, dtype: bfloat16 or quantize: nf4 with lora_rank",
        "optimizer state": "set optim: adamw_8bit, offload: optimizer or lora_rank",
        "gradients on the host": "set offload: none",
        "KV cache": "lower kv_cache_gib, or max_completion_length and max_num_seqs",
        "reserve": "give the run more memory (device_memory_gb)",
    }
    _check_sum(plan, plan.always, cures)


def _check_pass(plan: MemoryPlan, wishes: Wishes) -> None:
    given = wishes.micro_batch_tokens
    on = "" if plan.is_checkpointed else "gradient_checkpointing: true, or "
    longest = plan.setup.longest
    if given and given > longest:
        what, cure = f"a pass of {given:,} tokens", f"{on}a lower micro_batch_tokens"
    else:
        what, cure = f"a sequence of {longest:,} tokens", f"{on}a lower max_completion_length"
    whole = {**plan.always, **plan.update()}
    fixed = sum(plan.always.values()) + plan.update()["gradients"]
    offload = "; or offload: gradients, optim: adamw_8bit, lora_rank"
    cures = {"gradients": "set offload: gradients, or lora_rank"}
    cures |= dict.fromkeys(("activations", "head tile"), f"set {cure}{offload}")
    names = {"activations": f"activations of {what}"}
    if fixed <= plan.limits.device:
        whole = {**whole, "activations": whole.pop("activations")}
    _check_sum(plan, whole, cures, names)


def _check_rollout(plan: MemoryPlan, wishes: Wishes) -> None:
    is_grown = plan.setup.engine == "transformers"
    cures = {
        "engine workspace": "lower max_num_seqs",
        "KV cache": f"lower {'' if is_grown else 'kv_cache_gib, or '}"
        "max_num_seqs and max_completion_length",
    }
    _check_sum(plan, {**plan.always, **plan.rollout}, cures)
    context = plan.setup.context or plan.setup.longest
    one = context * terms.kv_token_bytes(plan.setup.shape, plan.setup.itemsize)
    if not is_grown and plan.kv_bytes < one:
        raise InputError(
            f"memory: the KV cache gets {gib(plan.kv_bytes)} of {gib(plan.limits.device)}, one "
            f"sequence of {context:,} tokens needs {gib(one)}; raise kv_cache_gib or lower "
            "max_completion_length"
        )


def _check_host(plan: MemoryPlan) -> None:
    need, limit = sum(plan.host.values()), plan.limits.host
    if limit is not None and need > limit:
        name = max(plan.host, key=plan.host.get)
        raise InputError(
            f"memory: the host needs {gib(need)}, it has {gib(limit)} free; {name} take "
            f"{gib(plan.host[name])}: set offload: none with optim: adamw_8bit, or lora_rank"
        )


def _check_sum(plan: MemoryPlan, found: dict, cures: dict, names: dict | None = None) -> None:
    """Refuse at the first term with which the sum is over the limit."""
    total, limit = 0, plan.limits.device
    for name, size in found.items():
        total += size
        if total > limit:
            raise InputError(
                f"memory: {(names or {}).get(name, name)} of {gib(size)} make {gib(total)} with "
                f"what comes before, and {gib(limit)} are there ({plan.limits.where}); "
                f"{cures.get(name, 'give the run more memory')}"
            )


def gib(num_bytes: float) -> str:
    """Bytes as text."""
    return f"{num_bytes / GIB:.2f} GiB"
