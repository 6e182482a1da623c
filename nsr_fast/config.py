"""The settings of a run: all groups together, and what holds between their keys."""

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict

from nsr_fast.config_groups import (
    DataKeys,
    EvalKeys,
    LoraKeys,
    ModelKeys,
    ObjectiveKeys,
    OptimizerKeys,
    RewardKeys,
    RoundKeys,
    SamplingKeys,
)
from nsr_fast.config_guards import check_guard_actions
from nsr_fast.config_objectives import SETTINGS_OF
from nsr_fast.config_rules import NEEDS
from nsr_fast.config_run import EngineKeys, GuardKeys, LimitKeys, MemoryKeys, RunKeys, SaveKeys
from nsr_fast.errors import InputError


class Config(BaseModel):
    """The settings of a run; `nsr-fast train --help` prints this page."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: ModelKeys
    data: DataKeys
    run: RunKeys
    save: SaveKeys
    reward: RewardKeys
    sampling: SamplingKeys
    round: RoundKeys
    guards: GuardKeys
    limits: LimitKeys
    objective: ObjectiveKeys
    optimizer: OptimizerKeys
    engine: EngineKeys
    memory: MemoryKeys
    lora: LoraKeys
    eval: EvalKeys

    @classmethod
    def from_flat(cls, values: Mapping[str, object]) -> "Config":
        """From key: value pairs. pydantic's ValidationError for a wrong value; InputError for a key
        that was given although nothing reads it under the others. What is not given is as the
        objective is known with it."""
        groups: dict[str, dict] = {name: {} for name in cls.model_fields}
        known = SETTINGS_OF.get(str(values.get("objective")), {})
        for key, value in {**known, **values}.items():
            groups[GROUP_OF.get(key, "run")][key] = value
        config = cls(**groups)
        for key, needs in config.unused().items():
            if key in values:
                raise InputError(f"{key}: needs {needs}; nothing else reads it, so remove it")
        config._check_truncated_sampling()
        check_guard_actions(config)
        return config

    def _check_truncated_sampling(self) -> None:
        """It excludes what compares the policy with the sampler."""
        if not self.sampling.sampling.is_truncated:
            return
        cut = f"top_p {self.sampling.top_p} and top_k {self.sampling.top_k}"
        if self.objective.importance_sampling_cap is not None:
            raise InputError(
                f"importance_sampling_cap: expected top_p 1.0 and top_k 0 beside it, got {cut}; "
                "the sampler's logprobs are then those of the kept tokens only and every ratio "
                "would be off, so remove one of the keys"
            )
        if self.limits.drift_limit is not None:
            raise InputError(
                f"drift_limit {self.limits.drift_limit}: with {cut} the sampler's logprobs are of "
                "another distribution and no limit can hold; remove it"
            )

    def flat(self) -> dict[str, object]:
        """key: value of every key that is read; from_flat gives the same settings back."""
        pairs = {k: v for group in self.model_dump().values() for k, v in group.items()}
        return {key: value for key, value in pairs.items() if key not in self.unused()}

    def unused(self) -> dict[str, str]:
        """The keys that nothing reads under the other settings, with what each of them needs."""
        missing = ((text, keys) for text, (keys, holds) in NEEDS.items() if not holds(self))
        return {key: text for text, keys in missing for key in keys}


GROUP_OF = {
    key: name
    for name, group in Config.model_fields.items()
    for key in group.annotation.model_fields
}
FIELDS = {key: Config.model_fields[g].annotation.model_fields[key] for key, g in GROUP_OF.items()}
