"""Everything beside the weights that a run needs to go on with the same bits."""

import json
from collections.abc import Mapping, Sequence

from nsr_fast.errors import InputError
from nsr_fast.run.resume import prompts_digest
from nsr_fast.train.round import Learner
from nsr_fast.types import Prompt


def trainer_state(
    learner: Learner, prompts: Sequence[Prompt], settings: Mapping, round_index: int
) -> dict:
    """After the round; tensors are the live ones. Noise and prompts of a round are functions of
    seed and round, so no generator's state is here."""
    return {
        "round": round_index,
        "settings": json.dumps(settings),
        "prompts": prompts_digest(prompts),
        "optimizer": learner.optimizer.state_dict(),
        "judged": learner.judged.state(),
        "suspects": learner.suspects.state(),
        "guards": learner.guards.state(),
        "pass_tokens": learner.passes.tokens,
        "is_gradient_checkpointing": learner.policy.is_gradient_checkpointing,
    }


def restore(learner: Learner, prompts: Sequence[Prompt], state: Mapping, settings: Mapping) -> None:
    """Undo of trainer_state, on a policy that holds the checkpoint's weights already. The size of a
    pass decides in which order gradients are summed: it stays under the same memory settings.
    """
    try:
        learner.optimizer.load_state_dict(state["optimizer"])
    except ValueError as error:
        raise InputError(f"resume: {error}") from None
    learner.judged.restore(state["judged"])
    learner.suspects.restore(state["suspects"], prompts)
    learner.guards.restore(state["guards"])
    memory = ("micro_batch_tokens", "gradient_checkpointing", "device_memory_gb")
    before = json.loads(state["settings"])
    if all(before.get(key) == settings.get(key) for key in memory):
        learner.passes.tokens = state["pass_tokens"]
        if state["is_gradient_checkpointing"]:
            learner.policy.gradient_checkpointing_enable()
