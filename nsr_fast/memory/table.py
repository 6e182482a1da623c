"""The plan as aligned text: what takes how much, when, and what was chosen."""

from nsr_fast.memory import terms
from nsr_fast.memory.plan import MemoryPlan, gib, tokens_that_fit


def plan_lines(plan: MemoryPlan) -> list[str]:
    """At most 12 lines for the start of a run."""
    update, rollout, always = plan.update(), plan.rollout, plan.always
    rows = [("always", always), ("update", update), ("rollout", rollout)]
    host = [("host", plan.host)] if plan.host else []
    lines = [f"memory: {gib(plan.limits.device)} may be used ({plan.limits.where})"]
    for name, found in (*rows, *host):
        parts = ", ".join(f"{term} {_short(size)}" for term, size in found.items())
        lines.append(f"  {name:8}{gib(sum(found.values())):>11}  {parts}")
    lines.append(f"  {'peak':8}{gib(plan.peak()):>11}  always + the larger of update and rollout")
    return [*lines, *_choices(plan)]


def plan_table(plan: MemoryPlan) -> list[str]:
    """A line a term, for `nsr-fast plan`."""
    s = plan.setup
    lines = [
        f"{s.shape.family}, {s.shape.params / 1e9:.3f} billion parameters of {s.itemsize} bytes, "
        f"{s.trained_params / 1e9:.3f} billion trained, on {s.device}",
        f"{gib(plan.limits.device)} may be used ({plan.limits.where})",
        "",
        f"{'when':9}{'term':32}{'GiB':>9}",
    ]
    for when, found in (("always", plan.always), ("update", plan.update())):
        lines += [_row(when, term, size) for term, size in found.items()]
    lines += [_row("rollout", term, size) for term, size in plan.rollout.items()]
    lines.append(_row("peak", "always + larger of the two", plan.peak()))
    lines += [_row("host", term, size) for term, size in plan.host.items()]
    lines += [
        "",
        f"activations a token: {terms.token_bytes(s, False):,} bytes, with "
        f"gradient_checkpointing {terms.token_bytes(s, True):,}; KV cache a token: "
        f"{terms.kv_token_bytes(s.shape, s.itemsize):,}",
        f"one pass could have {tokens_that_fit(plan, False):,} tokens, with "
        f"gradient_checkpointing {tokens_that_fit(plan, True):,}",
    ]
    return [*lines, *(line.strip() for line in _choices(plan))]


def _choices(plan: MemoryPlan) -> list[str]:
    s, is_on = plan.setup, str(plan.is_checkpointed).lower()
    if s.activation_offload:
        is_on += ", activation_offload true"
    lines = [
        f"  chosen: micro_batch_tokens {plan.tokens:,}, gradient_checkpointing {is_on}, KV cache "
        f"{gib(plan.kv_bytes)} = {plan.kv_tokens:,} tokens; largest pass {plan.pass_tokens:,}"
    ]
    if s.engine == "vllm" and plan.kv_tokens < s.sequences * s.longest:
        lines.append(
            f"  the KV cache holds {plan.kv_tokens // s.longest} sequences of {s.longest:,} "
            f"tokens at once, the engine would run {s.sequences}: the others wait"
        )
    return lines


def _row(when: str, term: str, size: int) -> str:
    return f"{when:9}{term:32}{size / terms.GIB:9.3f}"


def _short(size: int) -> str:
    return f"{size / terms.GIB:.2f}" if size >= terms.GIB // 100 else f"{size / 2**20:.1f} MiB"
