"""Guards alone: the limit of the drift by hand, and what they, Judged and Suspects remember."""

import io
from pathlib import Path

import pytest
import torch

from nsr_fast.config import FIELDS, Config
from nsr_fast.config_guards import GUARDS
from nsr_fast.errors import GuardStop
from nsr_fast.objective import Objective
from nsr_fast.train.behaviour import runs_in_circles
from nsr_fast.train.guards import Guards, bfloat16_spacing, drift_limit
from nsr_fast.train.judged import Judged
from nsr_fast.train.suspects import Suspects
from nsr_fast.train.tally import Drift
from nsr_fast.types import Group, Prompt, Rollout

NUMBERS = {"num_tokens": 8, "entropy": 1.0, "repetition": 0.0, "completion_length_mean": 5.0}


def config(**values):
    return Config.from_flat({"model": "m", "data": "d", "output_dir": "o", **values})


def guards(dtype=torch.float32, **values):
    return Guards(config(**values), dtype)


def rollout(prompt="p", *, size=2, ids=None, answer=None, is_correct=None):
    ids = tuple(ids or range(size))
    made = Rollout(Prompt(prompt, prompt, (1,), "gold", {}), ids, (-1.0,) * len(ids), "", "stop")
    made.answer_found, made.is_correct = answer, is_correct
    made.reward = None if is_correct is None else 1.0 if is_correct else -1.0
    return made


def loaded(state):
    """Through a checkpoint's file."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize(
    ("value", "spacing"),
    [
        (38, 0.25),
        (32, 0.25),
        (31.9, 0.125),
        (-130, 1.0),
        (521, 4.0),
        (1, 2**-7),
        (0.1, 2**-7),
        (float("nan"), 2**-7),
    ],
)
def test_bfloat16_spacing_by_hand_and_by_torch(value, spacing):
    assert bfloat16_spacing(value) == spacing
    if abs(value) >= 1:
        x = torch.tensor(float(value)).abs().bfloat16()
        above = (x.view(torch.int16) + 1).view(torch.bfloat16)
        assert float(above) - float(x) == spacing or x > abs(value)


def test_drift_limit_by_hand():
    bfloat16, float32 = torch.bfloat16, torch.float32
    assert drift_limit(config(), bfloat16, 38) == pytest.approx(0.15)  # 0.6 * 0.25
    assert drift_limit(config(), bfloat16, 20) == 0.1  # 0.6 * 0.125 is less
    assert drift_limit(config(), bfloat16, 100) == pytest.approx(0.3)
    assert drift_limit(config(), float32, 1000) == 1e-3
    assert drift_limit(config(drift_limit=0.02), bfloat16, 38) == 0.02
    assert drift_limit(config(top_p=0.9), bfloat16, 38) is None


@pytest.mark.parametrize(
    ("dtype", "mean", "logit", "words"),
    [
        (torch.bfloat16, 0.16, 38.0, r"logits as large as this model's, 38, to multiples of 0\.25"),
        (torch.bfloat16, 0.16, 38.0, r"logits_dtype: float32, or set drift_limit \(now 0\.15\)"),
        (torch.bfloat16, 3.0, 38.0, "does not run the trainer's weights"),
        (torch.float32, 0.002, 38.0, "does not run the trainer's weights"),
    ],
)
def test_drift_names_its_cause(dtype, mean, logit, words):
    found = guards(dtype)
    found.begin(4)
    assert found.allows(Drift(1e-4, 1.0, logit))
    assert guards(dtype, top_p=0.5).allows(Drift(9.0, 9.0, logit))
    with pytest.raises(GuardStop, match=f"^round 4, nothing was trained on it: .*{words}"):
        found.allows(Drift(mean, 1.0, logit))


def test_what_guards_remember_survives_a_checkpoint():
    keys = {"objective": "w_reinforce", "eval_data": "e", "max_skipped_steps": 2}
    keys |= {"guard_actions": "max_length_change=raise_lambda", "max_length_change": 2}
    first = guards(**keys)
    first.begin(1)
    first.after_sampling([], NUMBERS, [])
    first.non_finite(1, "loss", float("nan"))
    first.after_evaluation({"round": 1, "num_samples": 4, "num_correct": [4, 4, 4]})
    first.begin(2)
    assert first.after_sampling([], {**NUMBERS, "completion_length_mean": 10.1}, [])
    first.non_finite(1, "loss", float("nan"))
    fallen = {"round": 2, "num_samples": 4, "num_correct": [1, 2, 1]}
    assert len(first.after_evaluation(fallen)) == 1

    second = guards(**keys)
    second.restore(loaded(first.state()))
    assert second.state() == first.state()
    for each in (first, second):
        each.begin(3)
        assert each.metrics() == {"guards/max_pass_at_1_drop": 1, "psr_weight": 0.2}
        assert each.objective(Objective.w_reinforce(0.1)).positive_weight == 0.2
        each.after_sampling([], {**NUMBERS, "completion_length_mean": 2.4}, [])
        assert each.metrics()["psr_weight"] == 0.4  # against the 5 tokens of round 1
        assert isinstance(each.non_finite(1, "loss", float("nan")), GuardStop)
        assert "since round 1" in each.after_evaluation({**fallen, "round": 3})[0]

    other = guards(**keys, eval_num_prompts=3)
    other.restore(first.state())
    assert other.after_evaluation({**fallen, "round": 4}) == []  # other problems: no pair
    assert first.after_evaluation({"round": 5, "num_samples": 4, "num_correct": [0]}) == []


def test_what_judged_and_suspects_remember_survives_a_checkpoint():
    groups = [
        Group(
            Prompt(name, name, (1,), "gold", {}),
            tuple(rollout(name, answer="77", is_correct=False) for _ in range(4)),
        )
        for name in ("a", "b")
    ]
    judged, suspects = Judged(), Suspects()
    judged.findings(groups, config(), 1)
    suspects.add(groups)
    suspects.add(groups)
    again, others = Judged(), Suspects()
    again.restore(loaded(judged.state()))
    assert again == judged and again.num_scored == 8 and again.constant == -1.0
    prompts = [group.prompt for group in groups]
    others.restore(loaded(suspects.state()), prompts)
    assert "gold" not in str(suspects.state())
    assert others.records() == suspects.records() and len(others.records()) == 2
    assert others.without_quarantined(prompts, 2) == []
    others.restore(loaded(suspects.state()), prompts[:1])
    assert [record["id"] for record in others.records()] == ["a"]


def test_a_rollout_runs_in_circles():
    assert runs_in_circles(rollout(ids=(7,) * 64)) and not runs_in_circles(rollout(ids=(7,) * 63))
    assert not runs_in_circles(rollout(size=200))
    # 61 four-grams of 64 tokens: a period of 12 has 12 kinds of them (49/61 = .803 came before),
    # one of 13 has 13 (48/61 = .787)
    assert runs_in_circles(rollout(ids=[i % 12 for i in range(64)]))
    assert not runs_in_circles(rollout(ids=[i % 13 for i in range(64)]))


def test_the_table_of_the_documentation_is_that_of_the_code():
    pages = (Path(__file__).parents[2] / "docs").glob("*.md")
    lines = "\n".join(page.read_text() for page in pages).splitlines()
    tables = [[cell.strip(" `") for cell in line.strip("|").split(" | ")] for line in lines]
    rows = {cells[0]: cells for cells in tables if len(cells) == 6 and cells[0] in GUARDS}
    assert rows.keys() == GUARDS.keys()
    for name, guard in GUARDS.items():
        _, _, key, default, action, others = rows[name]
        assert (key, [action, *others.split(", ")]) == (guard.key, list(guard.actions))
        if key != "drift_limit":
            assert float(default.partition(" ")[0]) == FIELDS[key].default
