"""Sample the policy on held-out problems and count what is correct."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from nsr_fast.evaluate.pass_at_k import pass_at_k_curve
from nsr_fast.reward.reward import Reward
from nsr_fast.reward.round_log import TrainerState
from nsr_fast.rollout.collect import collect
from nsr_fast.rollout.engine import Engine
from nsr_fast.types import Prompt, Sampling, sampling_seed, verdict_counts

_COMPLETIONS_AT_ONCE = 8192


@dataclass(frozen=True, slots=True)
class Evaluation:
    """`num_correct` of `num_samples` completions for each problem, in the order of the data."""

    num_samples: int
    num_correct: tuple[int, ...]
    entropy: float  # nats a token, estimated as the mean of -logprob of the sampled tokens
    completion_length_mean: float
    num_truncated: int = 0  # stopped by max_completion_length
    verdicts: Mapping[str, int] = field(default_factory=dict)  # by verdict and reason
    notes: tuple[str, ...] = ()  # of the reward, for the user

    def record(self, round_index: int) -> dict:
        """One line of eval.jsonl: Pass@k with 95 % intervals over problems."""
        curve = pass_at_k_curve(self.num_correct, self.num_samples)
        return {
            "round": round_index,
            "num_samples": self.num_samples,
            "num_prompts": len(self.num_correct),
            "k": list(curve.k),
            "pass_at_k": list(curve.pass_at_k),
            "low": list(curve.low),
            "high": list(curve.high),
            "num_correct": list(self.num_correct),
            "entropy": self.entropy,
            "completion_length_mean": self.completion_length_mean,
            "num_unscored": self.verdicts.get("verdict/unscored", 0),
            "num_truncated": self.num_truncated,
            **self.verdicts,
        }

    @classmethod
    def of_record(cls, record: Mapping) -> "Evaluation":
        """Of a line that `record` wrote; notes are not in it."""
        return cls(
            num_samples=record["num_samples"],
            num_correct=tuple(record["num_correct"]),
            entropy=record["entropy"],
            completion_length_mean=record["completion_length_mean"],
            num_truncated=record["num_truncated"],
            verdicts={k: v for k, v in record.items() if k.startswith(("verdict/", "reason/"))},
        )


def evaluate_policy(
    engine: Engine,
    prompts: Sequence[Prompt],
    reward: Reward,
    sampling: Sampling,
    *,
    seed: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
    trainer_state: object = TrainerState(),
) -> Evaluation:
    """`sampling.num_generations` completions of each prompt; unscored ones count as not correct.

    seed      the same seed draws the same noise at every evaluation: comparisons are paired
    progress  called with (prompts done, prompts in all)
    trainer_state  for reward functions that ask for it
    """
    correct: list[int] = []
    logprob_sum, tokens, num_truncated = 0.0, 0, 0
    verdicts: Counter[str] = Counter()
    notes: list[str] = []
    prompts_at_once = max(1, _COMPLETIONS_AT_ONCE // sampling.num_generations)
    for start in range(0, len(prompts), prompts_at_once):
        part = prompts[start : start + prompts_at_once]
        seeds = [sampling_seed(seed, "eval", 0, start + i) for i in range(len(part))]
        scoring = reward.open(mask_truncated=False, trainer_state=trainer_state)
        for group in collect(engine, scoring, part, sampling, seeds):
            correct.append(sum(rollout.is_correct is True for rollout in group.rollouts))
            logprob_sum += sum(sum(r.sampler_logprob) for r in group.rollouts)
            tokens += sum(len(r.token_ids) for r in group.rollouts)
            num_truncated += sum(r.finish_reason == "length" for r in group.rollouts)
            verdicts.update(verdict_counts(group.rollouts))
        notes += scoring.log.notes
        progress(len(correct), len(prompts))
    num_completions = len(prompts) * sampling.num_generations
    return Evaluation(
        num_samples=sampling.num_generations,
        num_correct=tuple(correct),
        entropy=-logprob_sum / tokens,
        completion_length_mean=tokens / num_completions,
        num_truncated=num_truncated,
        verdicts=dict(verdicts),
        notes=tuple(notes),
    )
