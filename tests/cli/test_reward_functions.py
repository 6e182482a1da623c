"""Reward functions of users through the command line: what they are given and what decides."""

import json

import pytest
from cli.tiny_runs import completed, run_train, write_policy

CODE = """
import asyncio, json, multiprocessing, time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from aside import sign

lock, seen, calls = asyncio.Lock(), [], 0

def wrong(completions, answer, **columns):
    return [0] * len(completions)

def form(completions, **columns):
    return [1.0] * len(completions)

def parity(completion_ids, **columns):
    return [1.0 if ids[0] % 2 else 0.0 for ids in completion_ids]

def undecided(completions, **columns):
    return [None] * len(completions)

def state(completions, completion_ids, trainer_state, log_metric, log_extra, **columns):
    log_metric("step", trainer_state.global_step)
    log_metric("of", trainer_state.max_steps)
    log_extra("first", [ids[0] for ids in completion_ids])
    return [sign(ids) for ids in completion_ids]

async def locked(completion_ids, **columns):
    async def one(ids):
        async with lock:
            return sign(ids)
    return await asyncio.gather(*map(one, completion_ids))

async def half_second(completion_ids, **columns):
    await asyncio.sleep(0.5)
    return [sign(ids) for ids in completion_ids]

def score(number):
    return 1.0 if number % 2 else -1.0

def pooled(completion_ids, **columns):
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(score, [ids[0] for ids in completion_ids]))

def count(completion_ids, **columns):
    seen.append(len(completion_ids))
    return [sign(ids) for ids in completion_ids]

def counted(completion_ids, **columns):
    return [float(len(seen))] * len(completion_ids)

def messages(prompts, completions, completion_ids, **columns):
    assert all(prompt[-1]["role"] == "user" for prompt in prompts)
    assert all(c[0]["role"] == "assistant" and c[0]["content"] is not None for c in completions)
    return [sign(ids) for ids in completion_ids]

def solved(completion_ids, solution):
    assert all(text.startswith("worked") for text in solution)
    return [sign(ids) for ids in completion_ids]

def lacking(completions, difficulty):
    return [1.0] * len(completions)

def forever(completions, **columns):
    while True:
        try:
            time.sleep(1000)
        except Exception:
            pass

async def waiting(completions, **columns):
    await asyncio.Event().wait()

async def blocking(completions, **columns):
    time.sleep(4)

def third(completion_ids, **columns):
    global calls
    calls += 1
    if calls == 3:
        raise KeyError("late")
    return [sign(ids) for ids in completion_ids]

def at_once(completions, **columns):
    raise ValueError("what is this")

def exits(completions, **columns):
    raise SystemExit(0)

def alarmed(completion_ids, **columns):
    import signal
    before = signal.signal(signal.SIGALRM, lambda *_: None)  # in the main thread only
    signal.signal(signal.SIGALRM, before)
    return [sign(ids) for ids in completion_ids]
"""


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return write_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture
def run(policy, tmp_path):
    """run("f", "g * 0.1", key=value) -> a run with functions of CODE, started from elsewhere."""

    def call(*names, rounds=2, **keys):
        (tmp_path / "own").mkdir(exist_ok=True)
        (tmp_path / "own" / "reward.py").write_text(CODE)
        (tmp_path / "own" / "aside.py").write_text(
            "def sign(ids):\n    return 1.0 if ids[0] % 2 else -1.0\n"
        )
        reward = ", ".join(f"{tmp_path}/own/reward.py:{name}" for name in names)
        defaults = {"max_rounds": rounds, "constant_reward_rounds": "none", "objective": "psr"}
        return run_train(tmp_path / "x", policy, reward=reward, **(defaults | keys))

    return call


def refused(run, *words):
    assert run.code == 2 and not run.folder.exists(), (run.err, run.out)
    (line,) = run.err.splitlines()
    for word in words:
        assert word in line, line


def test_the_first_function_decides_and_weights_only_grade(run):
    for metrics in completed(run("wrong", "form * 0.1")).metrics:
        assert metrics["verdict/wrong"] == 1.0 and metrics["reward"] == 0.0
        assert metrics["trained_tokens"] == 0  # PSR: nothing is pushed up
        assert (metrics["reward/reward:wrong/mean"], metrics["reward/reward:form/mean"]) == (0, 1)


def test_correct_by_names_another_function(run):
    done = completed(run("form * 0.1", "parity", correct_by="parity", rounds=1))
    share = done.metrics[0]["reward/reward:parity/mean"]
    assert 0 < share < 1 and done.metrics[0]["verdict/correct"] == share


def test_a_negative_weight_turns_no_sign(run):
    done = completed(run("parity * -1", rounds=1))
    (metrics,) = done.metrics
    assert metrics["verdict/correct"] == metrics["reward/reward:parity/mean"] > 0
    graded = {line["reward"] for line in done.lines("rollouts/round-1.jsonl")}
    assert graded == {0.0, -1.0}


def test_unscored_by_the_decider_is_unscored(run):
    for metrics in completed(run("undecided", "form * 0.1")).metrics:
        assert metrics["num_unscored"] == 8 and metrics["reward/reward:undecided/mean"] is None


def test_a_list_with_reward_weights(run, policy, tmp_path):
    completed(run("parity", "form", rounds=1, reward_weights="1,0.5"))
    lines = (tmp_path / "x/run/rollouts/round-1.jsonl").read_text().splitlines()
    assert {json.loads(line)["reward"] for line in lines} == {0.5, 1.5}
    names = [f"{tmp_path}/own/reward.py:{name}" for name in ("parity", "form")]
    config = tmp_path / "c.yaml"
    config.write_text(json.dumps({"reward": names, "reward_weights": [1, 0.25]}))
    listed = run_train(tmp_path / "y", policy, reward=None, config=config)
    graded = {line["reward"] for line in completed(listed).lines("rollouts/round-1.jsonl")}
    assert graded == {0.25, 1.25}
    refused(run_train(tmp_path / "z", policy, reward=None, config=config, reward_weights="1"), "2")


def test_state_metrics_and_extras_as_trl_hands_them(run):
    done = completed(run("state"))
    assert [m["logged/step"] for m in done.metrics] == [1, 2]
    assert [m["logged/of"] for m in done.metrics] == [2, 2]
    for line in done.lines("rollouts/round-2.jsonl"):
        assert (line["reward"] > 0) == (line["first"] % 2 == 1)


@pytest.mark.parametrize("name", ["locked", "pooled", "alarmed"])
def test_locks_process_pools_and_alarms_work_in_every_round(run, name):
    shares = [metrics["verdict/correct"] for metrics in completed(run(name)).metrics]
    assert len(shares) == 2 and 0 < sum(shares) < 2


def test_async_functions_run_side_by_side(run):
    for metrics in completed(run("half_second", "half_second * 0.1")).metrics:
        assert 0.5 <= metrics["time/reward"] < 0.9


def test_functions_of_one_file_share_its_module(run):
    done = completed(run("count", "counted * 0.1"))  # the trial call left nothing behind
    assert [m["reward/reward:counted/mean"] for m in done.metrics] == [1, 2]


@pytest.mark.parametrize("several", [False, True])
def test_chat_prompts_come_as_message_lists(run, several):
    turns = [{"role": "user", "content": "1+1="}]
    turns = [{"role": "system", "content": "count"}, *turns] if several else turns
    rows = [{"id": "t0", "prompt": turns, "answer": "2"}]
    keys = {"template": "qwen", "max_prompt_length": 400, "rows": rows, "prompts_per_round": 1}
    completed(run("messages", **keys))


def test_rows_with_a_solution_or_no_answer_at_all(run):
    rows = [{"id": f"t{i}", "prompt": f"{i}+1=", "solution": f"worked {i}"} for i in range(3)]
    completed(run("solved", rows=rows))
    completed(run("parity", rows=[{"id": "t0", "prompt": "?"}], overwrite="true"))


def test_a_column_that_is_not_there_is_refused_before_the_model(run):
    refused(run("lacking"), "reward:lacking", "'difficulty'", "the data has answer, id, problem")


@pytest.mark.parametrize("name", ["forever", "waiting", "blocking"])
def test_a_call_that_hangs_leaves_its_rollouts_unscored_and_is_named(run, name):
    done = completed(run(name, reward_timeout_s=0.5, rounds=1))
    assert done.metrics[0]["num_unscored"] == 8
    words = f"round 1: reward: reward:{name} did not return within 0.5 s (reward_timeout_s) on 8"
    assert words in done.out and "the first of row 't" in done.out
    stopped = run(name, reward_timeout_s=0.5, max_unscored=0.9, overwrite="true")
    assert stopped.code == 3 and f"reward:{name} did not return within 0.5 s" in stopped.err


def test_a_function_that_fails_in_the_trial_call_is_refused_with_its_line(run):
    line = CODE.splitlines().index('    raise ValueError("what is this")') + 1
    refused(run("at_once"), "reward:at_once raised ValueError", f"reward.py:{line})", "trial call")
    refused(run("exits"), "reward:exits raised SystemExit")


def test_a_late_error_keeps_the_weights_of_the_last_round(run):
    done = run("third", rounds=5)
    assert done.code == 2 and "reward:third raised KeyError: 'late'" in done.err
    assert len(done.metrics) == 2 and done.weights(2)
    assert (done.folder / "report.html").is_file() and "Traceback" not in done.err


def test_correct_by_must_be_one_of_the_functions(run):
    refused(run("form", "parity", correct_by="praity"), "correct_by", "'praity'", "parity")
    refused(run("form", correct_by="form"), "correct_by: needs several functions in reward")
