"""What travels through a run: prompts, how they are sampled, rollouts with reward and weight."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field

CHAT = "__chat__"  # column of rows whose prompt came as messages, also as a single one

# The projections of a layer that can carry an adapter.
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True)
class Prompt:
    """A templated, tokenised problem and its accepted answer."""

    id: str  # unique in its data set
    text: str  # the template filled in: what the model reads
    token_ids: tuple[int, ...]  # of `text`, no special tokens added
    answer: object  # str, number, list of accepted answers, or whatever the reward reads
    columns: Mapping[str, object]  # the row as loaded; `prompt` holds the raw problem


@dataclass(frozen=True, slots=True)
class Sampling:
    """How completions are drawn. `logprob`s are those of the tempered, truncated distribution."""

    num_generations: int
    max_completion_length: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: off

    @property
    def is_truncated(self) -> bool:
        """Some tokens cannot be drawn, so a sampler logprob exceeds that of the full softmax."""
        return self.top_p < 1.0 or self.top_k > 0


@dataclass(frozen=True, slots=True)
class Budget:
    """When to stop waiting for stragglers: tokens sampled in all, seconds; None: wait for all."""

    max_tokens: int | None = None
    max_seconds: float | None = None


@dataclass(slots=True)
class Rollout:
    """One sampled completion. Each field has one writer: engine, then reward, then objective."""

    prompt: Prompt
    token_ids: tuple[int, ...]  # engine: the stop token included
    sampler_logprob: tuple[float, ...]  # engine: one per token, natural log, as it was sampled
    text: str  # engine: decoded without special tokens
    finish_reason: str  # engine: "stop" | "length" | "cut": a straggler that the budget ended
    reward: float | None = None  # reward: graded, the weighted sum of its parts
    is_correct: bool | None = None  # reward: alone sets the sign; None: unscored
    reward_parts: dict[str, float | None] = field(default_factory=dict)  # reward: by function
    reason: str | None = None  # reward: of the verdict, where the deciding part gives one
    answer_found: str | None = None  # reward: what the deciding part took for the answer
    extras: dict[str, object] = field(default_factory=dict)  # reward: a user's log_extra
    weight: float | tuple[float, ...] = 0.0  # objective: of every token, or one for each of them
    entropy_share: float = 0.0  # objective: f of weight (1 - f + f H), H the token's entropy

    @property
    def is_trained(self) -> bool:
        """Some token has a weight; otherwise the rollout never runs through the model."""
        weight = self.weight
        return any(w != 0 for w in weight) if isinstance(weight, tuple) else weight != 0


@dataclass(frozen=True, slots=True)
class Group:
    """All completions of one prompt in one round."""

    prompt: Prompt
    rollouts: tuple[Rollout, ...]


def verdict_counts(rollouts: Iterable[Rollout]) -> dict[str, int]:
    """verdict/correct, verdict/wrong, verdict/unscored, and reason/... where there are any."""
    names = {True: "correct", False: "wrong", None: "unscored"}
    counts = {f"verdict/{name}": 0 for name in names.values()}
    for rollout in rollouts:
        counts[f"verdict/{names[rollout.is_correct]}"] += 1
        if rollout.reason is not None:
            key = f"reason/{rollout.reason.partition(':')[0]}"
            counts[key] = counts.get(key, 0) + 1
    return counts


def sampling_seed(run_seed: int, stream: str, round_index: int, prompt_index: int) -> int:
    """A 62-bit seed of its own for every (run, stream, round, prompt).

    The completions of one prompt get the seeds s, s + 1, ...; prompts that share a seed share their
    noise, so neighbouring prompts must not get neighbouring seeds.
    """
    key = f"{run_seed}/{stream}/{round_index}/{prompt_index}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 2


@dataclass(frozen=True, slots=True)
class AdapterShape:
    """What engine and trainer must agree on; rank 0: no adapter."""

    rank: int = 0
    scale: float = 1.0
    targets: tuple[str, ...] = LINEARS
    quantize: str = "none"

    @classmethod
    def from_json(cls, value: dict) -> "AdapterShape":
        """Of to_json's value."""
        return cls(**value | {"targets": tuple(value["targets"])})

    def to_json(self) -> dict:
        """As plain lists and numbers."""
        return asdict(self) | {"targets": list(self.targets)}

    @property
    def alpha(self) -> float:
        """lora_alpha of PEFT's config: scale = alpha / rank."""
        return self.scale * self.rank

    @property
    def is_plain(self) -> bool:
        """Full training of plain matrices."""
        return not self.rank and self.quantize == "none"

    def adapts(self, module_name: str) -> bool:
        """Whether the linear of this name (model.layers.0.self_attn.q_proj) has A and B."""
        return bool(self.rank) and module_name.rpartition(".")[2] in self.targets


PLAIN = AdapterShape()
