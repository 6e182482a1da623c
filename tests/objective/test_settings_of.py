"""The settings that an objective brings along are those of its preset; a run takes the others."""

from nsr_fast.config import FIELDS, Config
from nsr_fast.config_groups import ObjectiveKeys
from nsr_fast.config_objectives import SETTINGS_OF
from nsr_fast.objective import objective_of
from nsr_fast.objective.presets import PRESETS

REQUIRED = {"model": "m", "data": "d", "output_dir": "o"}
NOT_YET = {"dapo", "ppo", "gspo", "topr", "rl_zvp", "stapo"}


def test_every_preset_is_in_a_run_or_known_not_to_be():
    assert SETTINGS_OF.keys() == PRESETS.keys() - NOT_YET
    for name, settings in SETTINGS_OF.items():
        known = PRESETS[name].defaults
        assert settings == {key: value for key, value in known.items() if key in FIELDS}, name


def test_they_hold_unless_given_and_survive_the_resolved_file():
    config = Config.from_flat({**REQUIRED, "objective": "ngrpo"})
    assert (config.objective.epsilon, config.objective.minibatches) == (0.16, 4)
    assert Config.from_flat(config.flat()) == config
    config = Config.from_flat({**REQUIRED, "objective": "ngrpo", "minibatches": 1})
    assert config.objective.minibatches == 1 and "epsilon" not in config.flat()
    assert Config.from_flat(config.flat()).objective.minibatches == 1


def test_an_objective_has_its_rule_term_and_denominator():
    for name in SETTINGS_OF:
        keys = Config.from_flat({**REQUIRED, "objective": name}).objective
        objective = objective_of(keys, max_completion_length=8)
        assert objective.minibatches == keys.minibatches
        assert ("old" in objective.needs) == (keys.minibatches > 1), name
    objective = objective_of(ObjectiveKeys(objective="pkpo", objective_kwargs={"k": 2}))
    assert objective.rule.k == 2
    assert objective_of(ObjectiveKeys(objective="dr_grpo", denominator="constant"), 8).scales(
        [1, 3]
    ) == [1 / 16, 1 / 16]
