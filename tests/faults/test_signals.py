"""A run that is asked to stop saves its last whole round, says how to go on, and ends."""

import os
import signal
import time

import pytest
from faults.places import Fault
from faults.processes import lines

fault = pytest.mark.fault
SAVED = "the last whole round, saved"


def says_how(running):
    assert f"nsr-fast resume {running.run}" in running.out
    assert len(running.err.splitlines()) == 1, running.err  # one line a failure


@pytest.mark.parametrize(
    ("place", "number", "code", "kept"),
    [
        pytest.param(
            Fault("rollout", 4, "wait"),
            signal.SIGTERM,
            143,
            3,
            marks=fault("SIGTERM in a rollout", "143", SAVED),
        ),
        pytest.param(
            Fault("backward", 4, "wait"),
            signal.SIGINT,
            130,
            3,
            marks=fault("SIGINT (Ctrl-C) in backward", "130", SAVED),
        ),
        pytest.param(
            Fault("backward", 2, "wait"),
            signal.SIGTERM,
            143,
            1,
            marks=fault("SIGTERM in backward", "143", SAVED),
        ),
        pytest.param(
            Fault("step", 70, "wait"),
            signal.SIGTERM,
            143,
            3,
            marks=fault("SIGTERM while weights are half written", "143", "that round, saved"),
        ),
        pytest.param(
            Fault("weights written", 2, "wait"),
            signal.SIGHUP,
            143,
            4,
            marks=fault("SIGHUP in a save", "143", "that save, finished"),
        ),
        pytest.param(
            Fault("evaluation", 2, "wait"),  # after round 2; done again at the resume
            signal.SIGUSR1,
            143,
            2,
            marks=fault("SIGUSR1 in an evaluation", "143", SAVED),
        ),
    ],
    ids=lambda value: getattr(value, "place", ""),
)
def test_signal_saves_the_last_whole_round(begin, goes_on, place, number, code, kept):
    running = begin(place)
    running.is_here()
    running.send(number)
    running.goes_on()  # where a request waits for a step or a save
    assert running.code() == code
    assert signal.Signals(number).name in running.err
    says_how(running)
    assert [m["round"] for m in lines(running.run / "metrics.jsonl")] == [*range(1, kept + 1)]
    goes_on(running, kept)


@fault("SIGTERM in verification", "143", SAVED)
def test_signal_in_the_reward_of_a_user_saves(begin, goes_on):
    """A reward with a deadline runs under a signal handler of its own."""
    running = begin(does="waits", reward_timeout_s=100)
    running.is_here()
    running.send(signal.SIGTERM)
    assert running.code() == 143
    says_how(running)
    goes_on(running, 2)


@fault("two SIGTERM within a second", "143", "as one")
def test_pair_of_signals_is_one(begin, goes_on):
    running = begin(Fault("step", 70, "wait"))
    running.is_here()
    running.send(signal.SIGTERM)
    time.sleep(0.2)
    running.send(signal.SIGTERM)
    running.goes_on()
    assert running.code() == 143
    says_how(running)
    goes_on(running, 3)


@fault("a second signal in a save", "143", "the checkpoint before, at once")
def test_second_signal_ends_at_once_with_whole_files(begin, goes_on):
    running = begin(Fault("weights written", 2, "wait"))
    running.is_here()
    running.send(signal.SIGTERM)
    running.wait_until(lambda: "once more: at once" in running.out)
    time.sleep(1.1)
    began = time.monotonic()
    running.send(signal.SIGTERM)  # `go` never comes
    assert running.code() == 143 and time.monotonic() - began < 5
    assert not running.err
    goes_on(running, 2)


@fault("the time limit (`max_time`)", "143", SAVED)
def test_time_limit_saves_in_time(begin, goes_on):
    limit = 25
    running = begin(Fault("rollout", 4, "wait"), max_time=limit)
    assert running.code() == 143  # nothing but the limit ends the wait
    assert time.monotonic() - running.started < limit + 5  # the start of the process beside it
    assert f"max_time {limit} s" in running.err
    says_how(running)
    goes_on(running, 3, max_time="none")


@fault("a second process on the run directory", "2", "the first goes on; its lock dies with it")
def test_second_process_is_refused_until_the_first_is_dead(begin, goes_on):
    from faults.processes import resume

    running = begin(Fault("rollout", 4, "wait"))
    running.is_here()
    before = sorted(running.run.rglob("*"))
    second = resume(running.folder)
    assert second.code() == 2
    assert f"process {running.pid} on {os.uname().nodename} trains in" in second.err
    assert sorted(running.run.rglob("*")) == before and running.process.is_alive()
    running.send(signal.SIGKILL)
    assert running.code() == -signal.SIGKILL
    goes_on(running, 2)


def test_ignored_hang_up_stays_ignored(begin):
    """nohup nsr-fast train: the run outlives its terminal."""
    running = begin(Fault("start", 1, "ignore SIGHUP"), Fault("rollout", 1, "wait"), max_rounds=1)
    running.is_here()
    running.send(signal.SIGHUP)
    running.goes_on()
    assert running.code() == 0 and running.err == ""
