"""The objectives that a run takes, each with the settings it is known with where they differ from
a run's own: they hold unless a setting says otherwise. What they are: objective/presets.py.
"""

from collections.abc import Mapping
from types import MappingProxyType

_OWN: Mapping[str, object] = MappingProxyType({})
_FOUR_STEPS = {"minibatches": 4}
_BY_RESPONSE = {**_FOUR_STEPS, "denominator": "sequence_mean"}

SIGNS = ("psr", "nsr", "w_reinforce", "reinforce")
SETTINGS_OF: Mapping[str, Mapping[str, object]] = MappingProxyType(
    {
        **dict.fromkeys(SIGNS, _OWN),
        "reinforce_pp": _FOUR_STEPS,
        "rloo": _OWN,
        "grpo": _BY_RESPONSE,
        "dr_grpo": {**_FOUR_STEPS, "denominator": "constant"},
        "cispo": {**_FOUR_STEPS, "denominator": "token_mean"},
        "ngrpo": {**_FOUR_STEPS, "epsilon": 0.16, "epsilon_high": 0.24},
        "maxrl": _OWN,
        "asymre": _OWN,
        "pass_at_k": _FOUR_STEPS,
        "pkpo": _OWN,
        "a_nsr": _OWN,
        "cw_nsr": _OWN,
        "fade": _FOUR_STEPS,
        "lens": _FOUR_STEPS,
        "a3po": {**_FOUR_STEPS, "epsilon_high": 0.28},
    }
)
