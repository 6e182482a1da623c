"""Guards of a step (numbers that are not finite, drift) and of an evaluation, in whole runs."""

from importlib.util import find_spec

import pytest
import torch
from cli.guard_runs import (
    broken_gradient,
    changed_learner,
    guard_lines,
    met,
    same_weights,
    shifted,
    written,
)
from cli.tiny_runs import completed, run_train, watched_engine, write_policy
from safetensors.torch import load_file, save_file

NAN = float("nan")


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return write_policy(tmp_path_factory.mktemp("policy"))


def broken_forward(*passes):
    """For changed_learner: the trunk gives NaN in these training passes, from 1."""
    seen = []

    def hook(module, arguments, output):
        if not torch.is_grad_enabled():
            return output
        seen.append(1)
        return output * NAN if len(seen) in passes else output

    return lambda learner: learner.policy.model.norm.register_forward_hook(hook)


def num_steps(run, round_index):
    state = torch.load(run.checkpoint(round_index) / "trainer_state.pt", weights_only=True)
    return state["optimizer"]["num_steps"]


BROKEN = {
    "gradient norm of step 1 is nan": broken_gradient(2),
    "gradient norm of step 1 is inf": broken_gradient(2, value=float("inf")),
    "loss of step 1 is nan": broken_forward(2),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_step_that_is_not_finite_is_left_out_and_its_rollouts_are_kept(policy, tmp_path, what):
    keys = {"max_rounds": 3, "save_rounds": 1, "objective": "reinforce"}
    with changed_learner(BROKEN[what]), watched_engine() as watched:
        run = completed(run_train(tmp_path, policy, **keys), met={"non_finite"})
    assert guard_lines(run) == [("non_finite", "skip")]
    assert f"round 2: guard non_finite (skip): the {what}" in run.out
    assert "nothing was trained" not in run.out
    second = run.metrics[1]
    assert [line["optimizer_steps"] for line in run.metrics] == [1, 0, 1]
    assert [met(line) for line in run.metrics] == [[], ["non_finite"], []]
    assert second["trained_tokens"] == 0 and second["loss"] is second["grad_norm"] is None
    assert same_weights(run.weights(2), run.weights(1))
    assert not same_weights(run.weights(3), run.weights(2))
    assert [num_steps(run, n) for n in (1, 2, 3)] == [1, 1, 2]
    assert [path.name for path in run.folder.glob("skipped/*")] == ["round-2-step-1.jsonl"]
    kept = {(line["id"], line["text"]): line for line in run.lines("skipped/round-2-step-1.jsonl")}
    given = watched.of_training()[1].given.values()
    assert len(kept) == len(given) == 8
    for rollout in given:
        line = kept[rollout.prompt.id, rollout.text]
        assert line["token_ids"] == list(rollout.token_ids)
        assert line["sampler_logprob"] == list(rollout.sampler_logprob)
        assert line["prompt"] == rollout.prompt.text
        assert line["weight"] == line["reward"] == (1 if rollout.token_ids[0] % 2 else -1)


def test_the_other_steps_of_the_round_are_taken(policy, tmp_path):
    """Of four, the second is left out."""
    keys = {"minibatches": 4, "objective": "reinforce", "drift_limit": 1}
    with changed_learner(broken_gradient(2)):
        run = completed(run_train(tmp_path, policy, **keys), met={"non_finite"})
    (metrics,) = run.metrics
    assert metrics["optimizer_steps"] == num_steps(run, 1) == 3
    kept = run.lines("skipped/round-1-step-2.jsonl")
    left_out = sum(len(line["token_ids"]) for line in kept)
    assert len(kept) == 2 and metrics["trained_tokens"] == metrics["num_tokens"] - left_out


def test_too_many_in_a_row_stop_the_run(policy, tmp_path):
    keys = {"max_rounds": 5, "max_skipped_steps": 2}
    with changed_learner(broken_gradient(1, 2, 4, 5)):
        run = completed(run_train(tmp_path / "a", policy, **keys), met={"non_finite"})
    assert [line["optimizer_steps"] for line in run.metrics] == [0, 0, 1, 0, 0]
    with changed_learner(broken_gradient(2, 3, 4)):
        run = run_train(tmp_path / "b", policy, **keys)
    assert run.code == 3 and len(run.err.splitlines()) == 1
    for word in ("round 4", "step 1 is nan", "3 such steps", "set max_skipped_steps (now 2)"):
        assert word in run.err, run.err
    assert len(run.metrics) == 4 and len(run.lines("skipped/round-4-step-1.jsonl")) > 0
    assert num_steps(run, 4) == 1


def test_the_first_one_stops_the_run_where_it_should(policy, tmp_path):
    for name, keys in {
        "a": {"guard_actions": "non_finite=stop"},
        "b": {"max_skipped_steps": 0},
    }.items():
        with changed_learner(broken_gradient(1)):
            run = run_train(tmp_path / name, policy, **keys)
        assert run.code == 3 and "round 1: the gradient norm of step 1 is nan" in run.err
        assert run.lines("skipped/round-1-step-1.jsonl")
        assert same_weights(run.weights(1), load_file(policy / "model.safetensors"))


@pytest.mark.parametrize("minibatches", [1, 2])
def test_drift_stops_before_a_weight_changes(policy, tmp_path, minibatches):
    keys = {"max_rounds": 2, "minibatches": minibatches}
    with watched_engine(shifted(0.0, 0.25)):
        run = run_train(tmp_path, policy, **keys)
    assert run.code == 3 and len(run.err.splitlines()) == 1
    words = ("round 2, nothing was trained on it: trainer and engine disagree by 2.50e-01 nats",)
    words += ("does not run the trainer's weights", "set drift_limit (now 0.001)")
    for word in words:
        assert word in run.err, run.err
    assert len(run.metrics) == 1 and num_steps(run, 1) == minibatches
    clean = completed(run_train(tmp_path / "b", policy, **keys | {"max_rounds": 1}))
    assert same_weights(run.weights(1), clean.weights(1))


def test_a_round_that_is_stopped_leaves_nothing_behind(policy, tmp_path):
    """What guards remember is that of the last whole round, as a resumed run needs it."""
    built, keys = [], {"objective": "w_reinforce", "entropy_ceiling": 2, "max_rounds": 2}
    keys |= {"reward": "math", "guard_actions": "entropy_ceiling=raise_lambda"}
    with changed_learner(built.append), watched_engine(shifted(0.0, 0.25)):
        run = run_train(tmp_path, policy, **keys)
    assert run.code == 3 and "round 2" in run.err and run.metrics[0]["psr_weight"] == 0.2
    (learner,) = built
    assert learner.judged.num_scored == 8 and learner.guards.state()["psr_weight"] == 0.2
    assert not learner.suspects.state()["sampled"]


def test_drift_may_be_skipped_or_borne(policy, tmp_path):
    for action, steps in {"skip": [1, 0, 1], "warn": [1, 1, 1]}.items():
        keys = {"max_rounds": 3, "guard_actions": f"drift_limit={action}", "save_rounds": 1}
        with watched_engine(shifted(0.0, 0.25, 0.0)):
            run = completed(run_train(tmp_path / action, policy, **keys), met={"drift_limit"})
        assert [line["optimizer_steps"] for line in run.metrics] == steps
        assert guard_lines(run) == [("drift_limit", action)] and met(run.metrics[1])
        assert run.metrics[1]["drift_mean"] == pytest.approx(0.25, abs=1e-4)
        assert same_weights(run.weights(2), run.weights(1)) == (action == "skip")


@pytest.mark.vllm
@pytest.mark.skipif(find_spec("vllm") is None, reason="vllm is not installed")
def test_in_bfloat16_the_drift_limit_follows_the_size_of_the_logits(tmp_path):
    """Rows of the head with one large vector in common: flat distributions of logits near 500, of
    which bfloat16 knows every second to fourth integer; hidden states differ by their rounding."""
    folder = write_policy(tmp_path / "policy", "llama")
    weights = load_file(folder / "model.safetensors")
    common = torch.randn(64, generator=torch.Generator().manual_seed(0))
    weights["lm_head.weight"] += 150 * common / common.norm()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    keys = {"engine": "vllm", "dtype": "bfloat16", "objective": "reinforce"}
    keys |= {"prompts_per_round": 6, "num_generations": 8}
    run = completed(run_train(tmp_path / "a", folder, **keys))
    assert 0.15 < run.metrics[0]["drift_mean"] < 1 and run.metrics[0]["entropy"] > 5
    run = run_train(tmp_path / "b", folder, drift_limit=0.1, **keys)
    assert run.code == 3 and not run.metrics
    for word in ("bfloat16 rounds logits", "to multiples of 4; set logits_dtype: float32, or set"):
        assert word in run.err, run.err


def forgetful(call, stream):
    """Every evaluation but the first is wrong on the last two of four samples."""
    right = written(r"\boxed{{{answer}}}")(call, stream)
    wrong = written("none")(call, stream)
    has_forgotten = forgetful.evaluations > 0 and not call.is_training
    forgetful.evaluations += not call.is_training
    for good, bad in zip(right, wrong):
        yield bad if call.is_training or (has_forgotten and good[1] > 1) else good


def falling(folder, policy, **keys):
    forgetful.evaluations = 0
    problems = [{"id": f"e{i}", "prompt": f"{i}-1=", "answer": str(i - 1)} for i in range(4)]
    with watched_engine(forgetful):
        return run_train(
            folder, policy, reward="math", eval_rows=problems, eval_rounds=1, max_rounds=2, **keys
        )


def test_a_falling_pass_at_1_warns_stops_or_raises_lambda(policy, tmp_path):
    name = "max_pass_at_1_drop"
    run = completed(falling(tmp_path / "a", policy), met={name})
    assert guard_lines(run) == [(name, "warn")] * 2
    what = "Pass@1 fell by 0.500 [0.500, 0.500] since round 0"
    assert f"after round 1: guard {name} (warn): {what}" in run.out
    assert [met(line) for line in run.metrics] == [[], [name]]
    assert len(run.evaluations) == 3

    run = falling(tmp_path / "b", policy, guard_actions=f"{name}=stop")
    assert run.code == 3 and f"after round 1: {what}" in run.err
    assert f"set {name} (now 0.2; none: off)" in run.err and len(run.evaluations) == 2

    keys = {"objective": "w_reinforce", "guard_actions": f"{name}=raise_lambda"}
    run = completed(falling(tmp_path / "c", policy, **keys), met={name})
    assert [line["psr_weight"] for line in run.metrics] == [0.1, 0.2]
    completed(falling(tmp_path / "d", policy, max_pass_at_1_drop="none"))
    completed(falling(tmp_path / "e", policy, max_pass_at_1_drop=0.51))
