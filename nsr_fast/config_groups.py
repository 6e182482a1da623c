"""The settings of what is learnt from what, in groups; a group goes whole to one room.

Names follow TRL where TRL has one. YAML and command line are flat: a key belongs to one group. Two
numbers set the batch: prompts_per_round and num_generations; micro-batching is automatic. How a run
goes on this machine is on the other page, config_run.py.
"""

from typing import Any, Literal

from pydantic import Field, field_validator

from nsr_fast.config_objectives import SETTINGS_OF
from nsr_fast.config_types import Group, Path
from nsr_fast.types import LINEARS, AdapterShape, Budget, Sampling


class ModelKeys(Group):
    """model/"""

    model: Path = Field(description="local checkpoint directory or hub name (Qwen2, Qwen3, Llama)")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 on CUDA, float32 on the CPU"
    )
    logits_dtype: Literal["auto", "float32"] = Field(
        "auto",
        description="of the head's logits, in trainer and engine; float32: not rounded to bfloat16",
    )


class DataKeys(Group):
    """data/"""

    data: str = Field(description="JSONL, JSON, CSV or parquet file, or a `datasets` name")
    prompt_column: str | None = Field(None, description="none: prompt, problem or question")
    answer_column: str | None = Field(None, description="none: answer, ground truth or solution")
    template: Literal["chat", "qwen", "qwen3_no_thinking", "llama", "none"] = Field(
        "chat", description="prompt template; chat = the tokenizer's own, none = the raw prompt"
    )
    system_prompt: str | None = Field(
        None, min_length=1, description="system turn of the rows that have none of their own"
    )
    chat_template_kwargs: dict[str, Any] | None = Field(
        None, description='what the chat template reads beside the turns: {"enable_thinking": ...}'
    )
    max_prompt_length: int = Field(1024, ge=1, description="tokens; see overlong_prompts")
    overlong_prompts: Literal["error", "drop"] = Field(
        "error", description="a prompt over max_prompt_length ends the run, or is left out"
    )


class RewardKeys(Group):
    """reward/"""

    reward: str | list[str] = Field(
        "math", description="math, countdown, code, module:function or file.py:function; several"
    )
    reward_weights: list[float] | None = Field(
        None, description="of the functions of reward; they change the graded value only"
    )
    correct_by: str | None = Field(
        None, description="the function that decides correct, wrong, unscored; none: the first"
    )
    reward_timeout_s: float | None = Field(
        300.0, gt=0, description="of one call of your function; then its rollouts are unscored"
    )
    extract: Literal["boxed", "lenient", "paper"] = Field(
        "boxed", description="math: the last box; else a stated answer; or the paper's own rule"
    )
    drop_bad_golds: bool = Field(
        False, description="drop rows whose answer does not verify against itself, or bad tests"
    )
    unsafe: bool = Field(
        False, description="run the programs of the code reward without a sandbox if none works"
    )
    mask_truncated_completions: bool = Field(
        False, description="a completion without an end is unscored instead of graded"
    )

    @property
    def names(self) -> list[str]:
        """The functions of `reward`, their weights left out."""
        parts = self.reward.split(",") if isinstance(self.reward, str) else self.reward
        return [part.partition("*")[0].strip() for part in parts]

    @property
    def built_in(self) -> set[str]:
        """Those of them that need an answer or tests in every row."""
        return {"math", "countdown", "code"} & set(self.names)

    @field_validator("reward_weights", mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        """1,0.1 on the command line."""
        return value.strip("[]").split(",") if isinstance(value, str) else value


class SamplingKeys(Group):
    """rollout/"""

    num_generations: int = Field(8, ge=1, description="G: rollouts of each prompt")
    max_completion_length: int = Field(2048, ge=1, description="tokens sampled at most")
    temperature: float = Field(1.0, gt=0, description="of sampling and of the trained logprobs")
    top_p: float = Field(
        1.0, gt=0, le=1, description="nucleus sampling; below 1 the drift limit is off"
    )
    top_k: int = Field(0, ge=0, description="sample from the k likeliest; 0: all, see top_p")

    @property
    def sampling(self) -> Sampling:
        return Sampling(**self.model_dump())


class RoundKeys(Group):
    """train/"""

    prompts_per_round: int = Field(64, ge=1, description="B: prompts sampled each round")
    round_token_budget: int | None = Field(
        None, ge=1, description="cut the stragglers once a round has sampled so many tokens"
    )
    round_seconds: float | None = Field(
        None,
        gt=0,
        description="cut them after so long; cut ones are unscored, which favours short ones",
    )

    @property
    def budget(self) -> Budget:
        return Budget(self.round_token_budget, self.round_seconds)


class ObjectiveKeys(Group):
    """objective/"""

    objective: Literal[*SETTINGS_OF] = Field(
        "nsr", description="how rewards become weights of rollouts: docs/objectives.md"
    )
    objective_kwargs: dict[str, Any] | None = Field(
        None, description='numbers of its weight rule: {"k": 8}'
    )
    psr_weight: float = Field(0.1, ge=0, description="lambda of w_reinforce: weight of a correct")
    minibatches: int = Field(1, ge=1, description="optimizer steps a round (1 = on-policy)")
    epsilon: float = Field(0.2, gt=0, description="PPO clip range when minibatches > 1")
    epsilon_high: float | None = Field(None, gt=0, description="upper clip range; none: epsilon")
    importance_sampling_cap: float | None = Field(
        None, gt=0, description="weight tokens by min(policy / sampler, cap); none: off"
    )
    entropy_coef: float = Field(0.0, ge=0, description="entropy bonus on the trained tokens")
    denominator: Literal["token_mean", "sequence_mean", "constant"] = Field(
        "token_mean", description="of a step: its tokens; by response; max_completion_length"
    )


class OptimizerKeys(Group):
    """train/optimizer.py"""

    learning_rate: float = Field(1e-6, gt=0, description="constant after the warm-up")
    warmup_steps: int = Field(0, ge=0, description="optimizer steps of linear warm-up")
    weight_decay: float = Field(0.01, ge=0)
    max_grad_norm: float = Field(1.0, gt=0, description="gradient clipping, global norm")
    optim: Literal["adamw", "adamw_8bit"] = Field(
        "adamw", description="adamw_8bit: 3 bytes a parameter, stochastic rounding, no masters"
    )
    master_weights: Literal["device", "stochastic"] = Field(
        "device",
        description="float32 copies of bfloat16 weights; stochastic: rounding, no copies; "
        "copies in host memory: offload",
    )


class LoraKeys(Group):
    """model/adapter.py"""

    lora_rank: int | None = Field(
        None, ge=1, description="train adapters of this rank on frozen weights; none: all weights"
    )
    lora_alpha: float | None = Field(
        None, gt=0, description="adapters are scaled by lora_alpha / lora_rank; none: lora_rank"
    )
    lora_targets: list[str] | None = Field(
        None, min_length=1, description="projections that are adapted (q_proj, ...); none: all"
    )
    quantize: Literal["none", "nf4"] = Field(
        "none", description="hold the frozen weights of the projections in 4 bits (QLoRA)"
    )

    @field_validator("lora_targets", mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        """q_proj,v_proj on the command line."""
        return value.strip("[]").replace(" ", "").split(",") if isinstance(value, str) else value

    @field_validator("lora_targets")
    @classmethod
    def _are_known(cls, value: list[str] | None) -> list[str] | None:
        if unknown := set(value or ()) - set(LINEARS):
            raise ValueError(f"some of {', '.join(LINEARS)}, not {min(unknown)}")
        return value

    @property
    def shape(self) -> AdapterShape:
        rank = self.lora_rank or 0
        scale = (self.lora_alpha or rank) / rank if rank else 1.0
        targets = [name for name in LINEARS if name in (self.lora_targets or LINEARS)]
        return AdapterShape(rank, scale, tuple(targets), self.quantize)


class EvalKeys(Group):
    """evaluate/"""

    eval_data: str | None = Field(None, description="problems for Pass@k, formats as data")
    eval_rounds: int = Field(0, ge=0, description="evaluate every N rounds; 0: start and end only")
    eval_num_prompts: int | None = Field(None, ge=1, description="first N problems; none: all")
    eval_num_samples: int = Field(16, ge=1, description="samples per problem, the largest k")
    eval_temperature: float = Field(1.0, gt=0)
    eval_top_p: float = Field(1.0, gt=0, le=1)

    def sampling(self, max_completion_length: int) -> Sampling:
        """How evaluation draws its completions."""
        samples, temperature = self.eval_num_samples, self.eval_temperature
        return Sampling(samples, max_completion_length, temperature, self.eval_top_p)
