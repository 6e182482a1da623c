"""Every guard of a sampled round with each action it may take, in whole runs."""

import pytest
from cli.guard_runs import guard_lines, met, of_tokens, same_weights, written
from cli.tiny_runs import completed, run_train, watched_engine, write_policy
from safetensors.torch import load_file

from nsr_fast.config_guards import GUARDS

OWN = """
def zero(completions, **columns):
    return [0.0] * len(completions)

def nothing(completions, **columns):
    return [None] * len(completions)
"""
BOX = r"row {{}} \boxed{{9{j}}}"
FAR = {"drift_limit": 100}
# what meets each guard in the last of its rounds, and nowhere else: engine, settings, words
CASES = {
    "max_truncated": (written(BOX, "length"), {"reward": "math", "max_truncated": 0.9}, "8 of 8"),
    "max_no_answer": (written("none"), {"reward": "math", "max_no_answer": 0.9}, "no answer"),
    "max_unscored": (None, {"reward": "nothing", "max_unscored": 0.5}, "left unscored"),
    "constant_reward_rounds": (
        None,
        {"reward": "zero", "constant_reward_rounds": 2, "max_rounds": 2},
        "the reward 0",
    ),
    "first_correct_rounds": (
        written(BOX),
        {"reward": "math", "first_correct_rounds": 2, "max_rounds": 2},
        "not one completion",
    ),
    "entropy_floor": (None, {"entropy_floor": 6.5, "entropy_ceiling": "none"}, "entropy of the"),
    "entropy_ceiling": (None, {"entropy_ceiling": 2}, "entropy of the"),
    "max_repetition": (lambda: of_tokens(64), {"max_repetition": 1} | FAR, "100% of the"),
    "max_length_change": (
        lambda: of_tokens(2, 5),
        {"max_length_change": 2.4, "max_rounds": 2} | FAR,
        "in the first round 2",
    ),
}
CALLED = ("max_repetition", "max_length_change")
SAMPLED = [name for name, guard in GUARDS.items() if guard.when == "sampled"]
PAIRS = [(name, action) for name in SAMPLED for action in GUARDS[name].actions]


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return write_policy(tmp_path_factory.mktemp("policy"))


def guarded(folder, policy, name, action, **settings):
    """A run of CASES in which this guard takes this action; the default one is not given."""
    change, keys, _ = CASES[name]
    keys = {"save_rounds": 1, **keys, **settings}
    folder.mkdir(exist_ok=True)
    (folder / "own.py").write_text(OWN)
    if keys.get("reward") in ("zero", "nothing"):
        keys["reward"] = f"{folder}/own.py:{keys['reward']}"
    if action != GUARDS[name].actions[0]:
        keys["guard_actions"] = f"{name}={action}"
    keys["objective"] = "w_reinforce" if action == "raise_lambda" else "reinforce"
    change = change() if name in CALLED else change
    with watched_engine(*([change] if change else [])):
        return run_train(folder, policy, **keys)


def weights_after(run, policy, round_index):
    return run.weights(round_index) if round_index else load_file(policy / "model.safetensors")


@pytest.mark.parametrize(("name", "action"), PAIRS)
def test_a_guard_of_a_sampled_round_takes_its_action(policy, tmp_path, name, action):
    keys, words = CASES[name][1:]
    last = keys.get("max_rounds", 1)
    run = guarded(tmp_path, policy, name, action)
    if action == "stop":
        assert run.code == 3, (run.out, run.err)
        (line,) = run.err.splitlines()
        limit = f"set {GUARDS[name].key} (now {keys[name]}; none: off)"
        for word in (f"round {last}, nothing was trained on it", words, limit):
            assert word in line, line
        assert len(run.metrics) == last - 1 and not guard_lines(run)
        return
    completed(run, met={name})
    metrics = run.metrics[-1]
    assert guard_lines(run) == [(name, action)] and met(metrics) == [name]
    assert f"round {last}: guard {name} ({action}): " in run.out and words in run.out
    assert all(not met(line) for line in run.metrics[:-1])
    is_trained = action != "skip"
    assert metrics["optimizer_steps"] == is_trained * (name != "max_unscored")
    assert (metrics["trained_tokens"] > 0) == (metrics["optimizer_steps"] > 0)
    before, after = (weights_after(run, policy, n) for n in (last - 1, last))
    assert same_weights(before, after) == (metrics["optimizer_steps"] == 0)
    assert ("nothing was trained" in run.out) == (name == "max_unscored" and is_trained)
    if action == "raise_lambda":
        assert metrics["psr_weight"] == 0.2 and "psr_weight 0.1 -> 0.2" in run.out


def test_a_limit_of_none_turns_a_guard_off(policy, tmp_path):
    for name in SAMPLED:
        keys = {name: "none"} | ({} if name == "entropy_ceiling" else {"entropy_ceiling": "none"})
        completed(guarded(tmp_path / name, policy, name, GUARDS[name].actions[0], **keys))


def test_the_raised_weight_is_the_one_that_is_trained_with_and_ends_at_1(policy, tmp_path):
    raised = {"entropy_ceiling": 2, "guard_actions": "entropy_ceiling=raise_lambda"}
    keys = {"objective": "w_reinforce", "max_rounds": 4}
    run = completed(
        run_train(tmp_path / "a", policy, psr_weight=0.3, save_rounds=1, **keys, **raised),
        met={"entropy_ceiling"},
    )
    assert [line["psr_weight"] for line in run.metrics] == [0.6, 1.0, 1.0, 1.0]
    plain = completed(run_train(tmp_path / "b", policy, **keys | {"max_rounds": 1}, psr_weight=0.6))
    assert same_weights(run.weights(1), plain.weights(1))
    assert plain.metrics[0]["psr_weight"] == 0.6
    none = run_train(tmp_path / "c", policy, psr_weight=0, **keys | {"max_rounds": 1}, **raised)
    assert completed(none, met={"entropy_ceiling"}).metrics[0]["psr_weight"] == 0.1


def test_repetition_is_the_share_that_runs_in_circles(policy, tmp_path):
    """Sample 0 of four goes round for 63 tokens, sample 1 for 64, 2 and 3 as they are."""

    def change(call, stream):
        for prompt, sample, rollout in stream:
            for _, _, circling in of_tokens(63 + sample)(call, [(prompt, sample, rollout)]):
                yield prompt, sample, circling if sample < 2 else rollout

    with watched_engine(change):
        run = completed(run_train(tmp_path, policy, **FAR))
    assert run.metrics[0]["repetition"] == 0.25


REFUSED = {
    "entropy_floor=raise_lambda": ({}, "expected objective w_reinforce, got nsr"),
    "entropy_ceiling=raise_lambda": (
        {"objective": "w_reinforce", "psr_weight": 1},
        "expected psr_weight below 1",
    ),
    "max_unscored=raise_lambda": ({"objective": "w_reinforce"}, "got raise_lambda; more weight"),
    "max_pass_at_1_drop=skip": ({}, "expected warn, stop, raise_lambda, got skip; after an eval"),
    "non_finite=warn": ({}, "expected skip, stop, got warn"),
    "max_pass_at_1_drop=stop": ({}, "needs eval_data"),
    "max_truncated=warn": ({"max_truncated": "none"}, "max_truncated is none"),
    "drift_limit=warn": ({"top_p": 0.5}, "that guard is off with top_p 0.5"),
    "drift=warn": ({}, "guard_actions: expected "),
    "max_truncated=ignore": ({}, "guard_actions: expected "),
    "non_finite=stop": ({"max_skipped_steps": 2}, "max_skipped_steps: needs guard_actions: non"),
}


@pytest.mark.parametrize("actions", REFUSED)
def test_an_action_that_makes_no_sense_is_refused_before_anything_runs(policy, tmp_path, actions):
    keys, words = REFUSED[actions]
    keys = {"max_truncated": 0.9, "max_unscored": 0.9} | keys
    run = run_train(tmp_path, policy, guard_actions=actions, **keys)
    assert run.code == 2 and words in run.err and len(run.err.splitlines()) == 1, run.err
    assert not run.folder.exists()
