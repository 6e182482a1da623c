"""What a key's readers need of the other settings: text -> (keys, whether it holds)."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from nsr_fast.config_objectives import SIGNS

if TYPE_CHECKING:
    from nsr_fast.config import Config

NEEDS: dict[str, tuple[tuple[str, ...], Callable[["Config"], bool]]] = {
    "template: chat": (("chat_template_kwargs",), lambda c: c.data.template == "chat"),
    "a template other than none": (("system_prompt",), lambda c: c.data.template != "none"),
    "objective: w_reinforce": (("psr_weight",), lambda c: c.objective.objective == "w_reinforce"),
    "an objective with numbers of its own": (
        ("objective_kwargs",),
        lambda c: c.objective.objective not in SIGNS,
    ),
    "minibatches above 1": (("epsilon", "epsilon_high"), lambda c: c.objective.minibatches > 1),
    "dtype: bfloat16 or auto": (
        ("master_weights", "logits_dtype"),
        lambda c: c.model.dtype != "float32",
    ),
    "optim: adamw": (("master_weights",), lambda c: c.optimizer.optim == "adamw"),
    "offload: none": (("master_weights",), lambda c: c.memory.offload == "none"),
    "gradient_checkpointing: auto or true": (
        ("activation_offload",),
        lambda c: c.memory.gradient_checkpointing is not False,
    ),
    "lora_rank": (("lora_alpha", "lora_targets"), lambda c: c.lora.lora_rank is not None),
    "reward: math": (("extract",), lambda c: "math" in c.reward.names),
    "reward: code": (("unsafe",), lambda c: "code" in c.reward.names),
    "reward: math or code": (
        ("drop_bad_golds",),
        lambda c: not {"math", "code"}.isdisjoint(c.reward.names),
    ),
    "several functions in reward": (("correct_by",), lambda c: len(c.reward.names) > 1),
    "a reward function of your own": (
        ("reward_timeout_s", "constant_reward_rounds"),
        lambda c: len(c.reward.names) > len(c.reward.built_in),
    ),
    "eval_data": (
        (
            "save_best",
            "max_pass_at_1_drop",
            "eval_rounds",
            "eval_num_prompts",
            "eval_num_samples",
            "eval_temperature",
            "eval_top_p",
        ),
        lambda c: c.eval.eval_data is not None,
    ),
    "guard_actions: non_finite=skip": (
        ("max_skipped_steps",),
        lambda c: c.limits.guard_actions.get("non_finite") != "stop",
    ),
    "engine: vllm": (
        ("share_weights", "gpu_memory_utilization", "kv_cache_gib"),
        lambda c: c.engine.engine != "transformers",
    ),
}
