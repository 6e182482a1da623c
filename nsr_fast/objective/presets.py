"""Every objective by name: weight rule, token term, the settings it is known with, and its source.

    PRESETS["dapo"].weights()            its weight rule with the numbers of the paper
    PRESETS["dapo"].weights(std=False)   or with others: the keys of its rule
    PRESETS["dapo"].surrogate            name of the token term (terms.py); None: -w logprob
A term that clips a ratio acts where a round has several minibatches: with one, the ratio is 1.
The table of docs/objectives.md is markdown(); python -m nsr_fast.objective.presets prints it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType

import nsr_fast.objective.negatives as negatives
import nsr_fast.objective.weights as weights
from nsr_fast.config_objectives import SETTINGS_OF
from nsr_fast.objective.group_relative import (
    AsymRE,
    BatchNormalized,
    GroupRelative,
    LeaveOneOut,
    MaxRL,
    topr,
)
from nsr_fast.objective.pass_k import PassAtK, Pkpo
from nsr_fast.objective.weights import Returns, WeightRule


@dataclass(frozen=True, slots=True)
class Preset:
    """One objective.

    weights      factory of its rule; keywords are the rule's numbers
    surrogate    name of the token term, None: -w logprob
    preparation  name and numbers of what it needs of a whole sequence or minibatch beforehand
                 (sequence.py); None: nothing
    defaults     settings other than the run's own, and the rule's own numbers
    formula, source, when   one line each, as the documentation has them
    """

    weights: Callable[..., WeightRule]
    surrogate: str | None
    formula: str
    source: str
    when: str
    defaults: Mapping[str, object] = field(default_factory=dict)
    preparation: tuple[str, Mapping[str, object]] | None = None


_PAPER = "2506.01347"
_DAPO = {"minibatches": 4, "epsilon_high": 0.28, "dynamic_sampling": True}

_SIGNS = {
    "psr": Preset(
        weights.psr,
        "ppo_clip",
        "correct +1, wrong 0",
        f"{_PAPER} eq. 3",
        "to sharpen what is known; entropy and Pass@k at large k fall",
    ),
    "nsr": Preset(
        weights.nsr,
        "ppo_clip",
        "correct 0, wrong -1",
        f"{_PAPER} eq. 4",
        "the default: Pass@k for every k, least work; long runs may degrade",
    ),
    "w_reinforce": Preset(
        weights.w_reinforce,
        "ppo_clip",
        "correct +l, wrong -1",
        f"{_PAPER} eq. 9",
        "long runs; l = 0.1, constant or scheduled, after an NSR warm-up or not",
        {"positive_weight": 0.1},
    ),
    "reinforce": Preset(
        weights.reinforce,
        "ppo_clip",
        "correct +1, wrong -1",
        f"{_PAPER} eq. 2",
        "the plain baseline",
    ),
    "topr": Preset(
        topr,
        "topr",
        "R; wrong times clip(prod r, 0, 1)",
        "2503.14286 eq. 7-8",
        "stale or foreign rollouts: wrong ones fade as the policy leaves them",
        {"minibatches": 4, "baseline": 0.0},
        ("sequence_ratio", {"kind": "product"}),
    ),
}

_GROUPS = {
    "reinforce_pp": Preset(
        BatchNormalized,
        "ppo_clip",
        "(r - m) / s over the round's tokens; baseline: r - group mean first",
        "2501.03262; verl",
        "one rollout a prompt; baseline=True for groups",
        {"minibatches": 4, "baseline": False},
    ),
    "rloo": Preset(
        LeaveOneOut,
        "ppo_clip",
        "r - mean of the others",
        "2402.14740",
        "the unbiased group baseline",
    ),
    "grpo": Preset(
        GroupRelative,
        "ppo_clip",
        "(r - mean) / (std + 1e-6)",
        "2402.03300; code of " + _PAPER,
        "the common baseline; solved and hopeless groups teach nothing",
        {"minibatches": 4, "denominator": "sequence_mean"},
    ),
    "dr_grpo": Preset(
        partial(GroupRelative, std=False),
        "ppo_clip",
        "r - mean, summed over tokens / constant",
        "2503.20783",
        "GRPO without its length and difficulty bias",
        {"minibatches": 4, "denominator": "constant"},
    ),
    "dapo": Preset(
        GroupRelative,
        "ppo_clip",
        "GRPO of r + overlong penalty, clip 0.2 / 0.28",
        "2503.14476",
        "GRPO for long answers: entropy lasts longer, no group is wasted",
        {**_DAPO, "denominator": "token_mean"},
    ),
    "gspo": Preset(
        GroupRelative,
        "gspo",
        "GRPO; ratio exp(mean log r) of the sequence, clipped",
        "2507.18071",
        "mixture-of-experts policies, long answers",
        {
            **{"minibatches": 4, "epsilon": 3e-4, "epsilon_high": 4e-4},
            "denominator": "sequence_mean",
        },
        ("sequence_ratio", {"kind": "mean"}),
    ),
    "cispo": Preset(
        GroupRelative,
        "cispo",
        "GRPO; clipped ratio a constant weight of logprob",
        "2506.13585",
        "many minibatches: no token is ever dropped",
        {"minibatches": 4, "denominator": "token_mean"},
    ),
    "ppo": Preset(
        Returns,
        "ppo_clip",
        "GAE(r, V), V from a critic",
        "1707.06347, 1506.02438",
        "one rollout a prompt and memory for a critic",
        {"minibatches": 4},
    ),
    "ngrpo": Preset(
        partial(GroupRelative, top_reward=1.0),
        "ppo_clip",
        "GRPO with one more reward of 1 in mean and std",
        "2509.18851 and its code",
        "hard data: all-wrong groups teach, bounded",
        {"minibatches": 4, "epsilon": 0.16, "epsilon_high": 0.24, "top_reward": 1.0},
    ),
    "maxrl": Preset(
        MaxRL,
        "ppo_clip",
        "(c - p) / p",
        "2602.02710 and its code",
        "many rollouts a prompt; rare successes count most",
    ),
    "asymre": Preset(
        AsymRE,
        None,
        "r - (mean - 0.1)",
        "2506.20520",
        "off-policy data without ratios; filter all-wrong groups",
        {"offset": -0.1},
    ),
    "pass_at_k": Preset(
        PassAtK,
        "ppo_clip",
        "correct (1 - R) / s, wrong (1 - R - C(W-1,k-1) / C(n-1,k-1)) / s",
        "2508.10751 and its code",
        "Pass@k is the target; k = 4",
        {"minibatches": 4, "k": 4},
    ),
    "pkpo": Preset(
        Pkpo,
        "ppo_clip",
        "n / C(n,k) sum over I with i of max I - max I less i",
        "2505.15201 eq. 33",
        "the unbiased gradient of Pass@k or of the best of k graded rewards",
        {"k": 4},
    ),
}

_NEGATIVES = {
    "a_nsr": Preset(
        negatives.a_nsr,
        "ppo_clip",
        "correct +0.1, wrong -1 to -0.3 over the run",
        "2605.07137 (abstract; form ours)",
        "NSR that grows milder",
    ),
    "cw_nsr": Preset(
        negatives.cw_nsr,
        "ppo_clip",
        "correct 0, wrong -q",
        "2605.07137 (abstract; form ours)",
        "NSR that spares uncertain mistakes",
    ),
    "fade": Preset(
        negatives.Fade,
        "ppo_clip",
        "(1-p)^a, -(1-p)^(a-1) p / d; a by solve rate, d by entropy",
        "2607.01490 (second-hand)",
        "hard problems first, mistakes once entropy is low",
        {"minibatches": 4, "entropy_target": 1.0},
    ),
    "lens": Preset(
        negatives.Lens,
        "ppo_clip",
        "GRPO, wrong rewards -q / (D - q) / n; all-wrong groups x 0.25",
        "2510.08696 section 5",
        "hard data: all-wrong groups teach by confidence",
        {"minibatches": 4, "negative_share": 0.25},
    ),
    "rl_zvp": Preset(
        negatives.RlZvp,
        "ppo_clip",
        "GRPO; all right 0.1 H, all wrong -0.1 (max H - H)",
        "2509.21880",
        "groups of one verdict are common",
        {"minibatches": 4, "epsilon_high": 0.28},
        ("zero_variance", {}),
    ),
    "a3po": Preset(
        negatives.A3po,
        "ppo_clip",
        "GRPO; rare tokens of correct, likely ones of wrong x 2 to 1",
        "2512.21625 and its code",
        "entropy falls too early",
        _DAPO,
    ),
    "stapo": Preset(
        negatives.stapo,
        "ppo_clip",
        "GRPO; w = 0 where w > 0, p < 0.002, H in the lowest 20 %",
        "2602.15620",
        "late collapse in long runs",
        {"minibatches": 4, "epsilon_high": 0.28},
        ("spurious_tokens", {"probability": 0.002, "entropy_quantile": 0.2}),
    ),
}

PRESETS: Mapping[str, Preset] = MappingProxyType(_SIGNS | _GROUPS | _NEGATIVES)


def markdown() -> str:
    """One row per preset."""
    rows = [
        "| name | weights | token term | settings | source | when |",
        "|---|---|---|---|---|---|",
    ]
    for name, preset in PRESETS.items():
        settings = ", ".join(f"{key}: {_text(value)}" for key, value in preset.defaults.items())
        term = f"`{preset.surrogate}`" if preset.surrogate else "-w logprob"
        term += f" after `{preset.preparation[0]}`" if preset.preparation else ""
        later = "" if name in SETTINGS_OF else " (not yet in a run)"
        cells = (f"`{name}`{later}", preset.formula, term, settings, preset.source, preset.when)
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _text(value: object) -> str:
    return "none" if value is None else str(value).lower()


if __name__ == "__main__":
    print(markdown())
