"""The presets: every name of the issue, their numbers, and the documentation made from them."""

import inspect
from pathlib import Path

import pytest
from rule_groups import of_verdicts, weights

from nsr_fast.objective.presets import PRESETS, markdown

NAMES = (
    "psr nsr w_reinforce reinforce reinforce_pp rloo grpo dr_grpo dapo gspo cispo ppo ngrpo maxrl "
    "pass_at_k pkpo topr asymre a_nsr cw_nsr fade lens rl_zvp a3po stapo"
)
TERMS = {None, "ppo_clip", "cispo", "gspo", "topr"}
SETTINGS = {"minibatches", "epsilon", "epsilon_high", "denominator", "dynamic_sampling"}
DOCS = Path(__file__).parents[2] / "docs/objectives.md"


def test_every_name_has_a_preset():
    assert sorted(PRESETS) == sorted(NAMES.split())
    for name, preset in PRESETS.items():
        assert preset.surrogate in TERMS and preset.formula and preset.source and preset.when, name


@pytest.mark.parametrize("name", NAMES.split())
def test_defaults_are_settings_or_the_numbers_of_the_rule(name):
    preset = PRESETS[name]
    parameters = inspect.signature(preset.weights).parameters
    own = {key: x for key, x in preset.defaults.items() if key not in SETTINGS}
    assert all(parameters[key].default == value for key, value in own.items())
    assert preset.weights(**own) == preset.weights()


VERDICTS = [True, False, False, False]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("psr", (1.0, 0.0)),
        ("nsr", (0.0, -1.0)),
        ("w_reinforce", (0.1, -1.0)),
        ("reinforce", (1.0, -1.0)),
        ("topr", (1.0, -1.0)),
        ("ppo", (1.0, -1.0)),
        ("reinforce_pp", (1.5, -0.5)),
        ("rloo", (2.0, -2 / 3)),
        ("grpo", (1.5, -0.5)),
        ("dr_grpo", (1.5, -0.5)),
        ("dapo", (1.5, -0.5)),
        ("ngrpo", (1.2 / 1.2**0.5, -0.8 / 1.2**0.5)),
        ("maxrl", (3.0, -1.0)),
        ("asymre", (1.6, -0.4)),
        ("pass_at_k", (0.0, 0.0)),
        ("pkpo", (8.0, 0.0)),
        ("a_nsr", (0.1, -1.0)),
        ("cw_nsr", (0.0, -(0.5**0.5))),
        ("stapo", (1.5, -0.5)),
    ],
)
def test_presets_with_their_own_numbers(name, expected):
    """One of four correct, rewards +1 and -1, four tokens each of probability 1 / sqrt 2."""
    found = weights(
        PRESETS[name].weights(), of_verdicts(VERDICTS, tokens=4, logprob=-0.34657359028)
    )
    # REINFORCE++: variance 12/16 of the 16 tokens' rewards, times 16 / 15
    scale = (0.75 * 16 / 15) ** 0.5 if name == "reinforce_pp" else 1.0
    assert found == pytest.approx([expected[0] / scale, *[expected[1] / scale] * 3], rel=2e-6)


def test_the_numbers_that_name_a_method():
    assert PRESETS["dapo"].defaults["epsilon_high"] == 0.28
    assert PRESETS["dapo"].defaults["dynamic_sampling"] is True
    assert (PRESETS["gspo"].defaults["epsilon"], PRESETS["gspo"].defaults["epsilon_high"]) == (
        3e-4,
        4e-4,
    )
    assert (PRESETS["ngrpo"].defaults["epsilon"], PRESETS["ngrpo"].defaults["epsilon_high"]) == (
        0.16,
        0.24,
    )
    assert PRESETS["dr_grpo"].defaults["denominator"] == "constant"
    assert PRESETS["stapo"].preparation[1] == {"probability": 0.002, "entropy_quantile": 0.2}
    assert PRESETS["gspo"].preparation == ("sequence_ratio", {"kind": "mean"})
    assert PRESETS["topr"].preparation == ("sequence_ratio", {"kind": "product"})


def test_the_table_of_the_documentation_is_up_to_date():
    text = DOCS.read_text()
    table = text.partition("<!-- presets: begin -->\n")[2].partition("\n<!-- presets: end -->")[0]
    assert table == markdown(), "paste the output of python -m nsr_fast.objective.presets"
    assert all(len(row.split(" | ")) == 6 for row in table.splitlines() if "---" not in row)


def test_the_documentation_quotes_both_warnings():
    text = DOCS.read_text()
    assert "RLVR-Decomposed#6" in text and "rlhf-book PR 483" in text
