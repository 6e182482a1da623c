"""The settings of how a run goes on this machine: where it writes, when it stops, what it may use.

What is learnt from what is on the other page, config_groups.py; both say whole groups, each read by
one room.
"""

from typing import Literal

from pydantic import Field, field_validator

from nsr_fast.config_types import Count, Group, GuardAction, GuardName, Path, Seconds, Size


class RunKeys(Group):
    """run/ and train/loop.py"""

    output_dir: Path = Field(min_length=1, description="run directory; must not hold a run yet")
    overwrite: bool = Field(False, description="move the run that output_dir holds aside")
    resume_from_checkpoint: bool | Path = Field(
        False, description="true: go on from output_dir's last one, if any; or its path"
    )
    dry_run: bool = Field(False, description="check settings and data, print them, load no model")
    max_rounds: int = Field(100, ge=1, description="rounds (generate, then update) to run")
    max_time: Seconds | None = Field(
        None, description="save and stop within: seconds, 90m, 1:30:00; none: no limit"
    )
    sample_rollouts: int = Field(8, ge=0, description="rollouts written to rollouts/ each round")
    seed: int = Field(0, ge=0)
    cpu_threads: int | None = Field(None, ge=1, description="none: torch's default")

    @field_validator("resume_from_checkpoint", mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        """true on the command line is no path."""
        return {"true": True, "false": False}.get(str(value).lower(), value)


class SaveKeys(Group):
    """run/checkpoint.py"""

    save_rounds: int = Field(
        0, ge=0, description="checkpoint every N rounds; 0: the last only, and wherever it stops"
    )
    save_total_limit: int | None = Field(
        None, ge=1, description="checkpoints kept, the newest, and the best; none: all"
    )
    save_best: str | None = Field(
        None, description="pass_at_K of eval_data: also keep the best round, as checkpoints/best"
    )
    save_only_weights: bool = Field(
        False, description="leave the optimizer's state out; such a run cannot be resumed"
    )


class GuardKeys(Group):
    """train/: rounds in which nothing was judged stop the run before they train; none: never"""

    max_truncated: float | None = Field(
        0.9, gt=0, le=1, description="share stopped by max_completion_length that stops the run"
    )
    max_no_answer: float | None = Field(
        0.9, gt=0, le=1, description="share in which the reward found no answer"
    )
    max_unscored: float | None = Field(
        0.9, gt=0, le=1, description="share unscored, what the round's budget cut left out"
    )
    constant_reward_rounds: int | None = Field(
        1, ge=1, description="first rounds in which your function gave one and the same value"
    )
    first_correct_rounds: int | None = Field(
        3, ge=1, description="first rounds without any correct rollout"
    )
    quarantine_after: int | None = Field(
        None, ge=2, description="drop a prompt whose rollouts agreed so often on one wrong answer"
    )


class LimitKeys(Group):
    """train/guards.py: what a healthy run never meets; none: no such guard"""

    drift_limit: float | None = Field(
        None, gt=0, description="mean |policy - sampler| logprob; none: by dtype and logits"
    )
    max_skipped_steps: int = Field(
        3, ge=0, description="steps in a row left out for a non-finite loss or gradient"
    )
    entropy_floor: float | None = Field(0.005, ge=0, description="mean nats of a sampled token")
    entropy_ceiling: float | None = Field(6.0, gt=0, description="mean nats of a sampled token")
    max_repetition: float | None = Field(
        0.5, gt=0, le=1, description="share of rollouts that run in circles"
    )
    max_length_change: float | None = Field(
        10.0, gt=1, description="mean completion length over that of the first round, or under"
    )
    max_pass_at_1_drop: float | None = Field(
        0.2, gt=0, le=1, description="Pass@1 of eval_data under the best so far"
    )
    guard_actions: dict[GuardName, GuardAction] = Field(
        {}, description="what guards do: max_truncated=warn,entropy_ceiling=stop"
    )

    @field_validator("guard_actions", mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        """name=action,name=action on the command line."""
        if not isinstance(value, str):
            return value
        pairs = [pair.partition("=") for pair in value.replace(" ", "").split(",")]
        return {name: action for name, _, action in pairs}


class EngineKeys(Group):
    """rollout/"""

    engine: Literal["auto", "vllm", "transformers"] = Field(
        "auto", description="what samples the rollouts; auto: vllm where installed"
    )
    share_weights: bool = Field(
        True, description="vLLM computes with the trainer's tensors; false: with its own copy"
    )
    max_num_seqs: int = Field(256, ge=1, description="sequences the engine decodes at once")
    gpu_memory_utilization: float = Field(
        0.5, gt=0, lt=1, description="share of the GPU that vLLM finds at its start"
    )


class MemoryKeys(Group):
    """memory/"""

    micro_batch_tokens: Count | Literal["auto"] = Field(
        "auto", description="tokens packed into one pass; auto: what fits, see `nsr-fast plan`"
    )
    gradient_checkpointing: bool | Literal["auto"] = Field(
        "auto", description="recompute activations in backward; auto: where a pass needs it to fit"
    )
    activation_offload: bool | Literal["auto"] = Field(
        "auto",
        description="what a checkpointed layer keeps waits in host memory; auto: CUDA, if need be",
    )
    offload: Literal["none", "optimizer", "gradients"] = Field(
        "none", description="to host memory: masters and moments; gradients: and the gradients"
    )
    kv_cache_gib: Size | Literal["auto"] = Field(
        "auto", description="vLLM's KV cache; auto: what fits, at most 1 on the CPU"
    )
    device_memory_gb: float | None = Field(
        None, gt=0, description="1e9 bytes that the plan may use; none: what is free"
    )
