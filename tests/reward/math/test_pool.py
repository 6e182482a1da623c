import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from benchmarks.verify_probes import boxed
from nsr_fast.reward import Reward, Verdict
from nsr_fast.reward.math import MathReward, MathVerifier
from nsr_fast.reward.math.pool import WorkerPool

# Passes the static bounds and keeps sympy busy for minutes.
SLOW = "+".join(
    rf"\int_{{0}}^{{{i}}}\frac{{\sin(x^{{{i}}})}}{{x^{{3}}+{i}}}dx" for i in range(1, 8)
)


def children(pid):
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if parent == pid:
                found += [int(folder.name), *children(int(folder.name))]
    return found


def is_alive(pid):
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def stop(pid):
    """SIGSTOP, and the wait until it has come: a reader may take what arrives before that."""
    os.kill(pid, signal.SIGSTOP)
    while "\nState:\tT" not in Path(f"/proc/{pid}/status").read_text():
        time.sleep(0.01)


def are_gone(pids, deadline_s=20):
    end = time.monotonic() + deadline_s
    while any(map(is_alive, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    return not any(map(is_alive, pids))


def child_of(pool):
    """The process that judges, of a pool of one worker."""
    return pool._workers[0]._child


@pytest.fixture(scope="module")
def pool():
    pool = WorkerPool(1, deadline_s=1.0)
    pool.wait_ready()
    yield pool
    pool.close()


def test_a_late_answer_is_unscored_and_the_worker_replaced(pool):
    start = time.monotonic()
    late, next_one = pool.submit(("5",), SLOW), pool.submit((r"\sqrt{8}",), r"2\sqrt{2}")
    assert late.result(60).verdict is Verdict.UNSCORED and late.result().reason == "deadline"
    assert next_one.result(60).verdict is Verdict.CORRECT
    assert time.monotonic() - start < 20 and pool.num_kills == 1


def test_a_worker_that_dies_is_replaced(pool):
    assert pool.submit((r"\sqrt{8}",), r"2\sqrt{2}").result(60).verdict is Verdict.CORRECT
    os.kill(child_of(pool), signal.SIGKILL)
    first = pool.submit((r"\sqrt{8}",), r"2\sqrt{3}").result(60)
    second = pool.submit((r"\sqrt{8}",), r"2\sqrt{3}").result(60)
    assert (first.verdict, first.reason) == (Verdict.UNSCORED, "crash")
    assert second.verdict is Verdict.WRONG


def test_a_worker_that_sleeps_has_four_deadlines_of_wall_time(pool):
    assert pool.submit((r"\sqrt{8}",), r"2\sqrt{2}").result(60).verdict is Verdict.CORRECT
    stop(child_of(pool))  # it takes no core from now on
    start = time.monotonic()
    score = pool.submit((r"\sqrt{8}",), r"2\sqrt{2}").result(20)
    assert (score.verdict, score.reason) == (Verdict.UNSCORED, "deadline")
    assert 3.9 < time.monotonic() - start < 10
    assert pool.submit((r"\sqrt{8}",), r"2\sqrt{2}").result(60).verdict is Verdict.CORRECT


def test_an_answer_to_an_earlier_request_does_not_pass_for_the_next_ones(pool):
    assert pool.submit((r"\sqrt{8}",), r"2\sqrt{2}").result(60).verdict is Verdict.CORRECT
    child = child_of(pool)
    stop(child)
    unread = pool.submit((r"\sqrt{8}",), r"2\sqrt{3}")
    time.sleep(0.3)
    os.kill(child, signal.SIGKILL)
    assert unread.result(60).reason == "crash"
    time.sleep(0.5)  # the successor finds the unread request and answers it: wrong
    scores = [pool.submit((r"\sqrt{8}",), r"2\sqrt{2}").result(60) for _ in range(2)]
    assert [score.verdict for score in scores] == [Verdict.CORRECT] * 2


def test_a_worker_has_no_memory_beyond_its_own_and_writes_no_file(pool):
    assert pool.submit((r"\sqrt{8}",), r"2\sqrt{2}").result(60).verdict is Verdict.CORRECT
    child, one_gib = child_of(pool), 1 << 30  # memory_mb is 1024
    assert resource.prlimit(child, resource.RLIMIT_AS) == (one_gib, one_gib)
    assert resource.prlimit(child, resource.RLIMIT_FSIZE) == (0, 0)
    assert resource.prlimit(child, resource.RLIMIT_CORE) == (0, 0)


def test_a_worker_without_memory_leaves_right_answers_unscored():
    pool = WorkerPool(1, memory_mb=1)
    pool.wait_ready()
    scores = [pool.submit((r"\sqrt{8}",), r"2\sqrt{2}").result(60) for _ in range(2)]
    pool.close()
    assert [(s.verdict, s.reason) for s in scores] == [(Verdict.UNSCORED, "memory")] * 2


def test_an_answer_that_was_late_is_asked_again():
    verifier = MathVerifier(num_workers=1, deadline_s=0.3)
    verifier.wait_ready()
    late = verifier.score([boxed(SLOW)], ["5"])[0]
    kills = verifier.statistics()["verify/kills"]
    again = verifier.score([boxed(SLOW)], ["5"])[0]
    assert late.reason == again.reason == "deadline"
    assert verifier.statistics()["verify/kills"] == kills + 1
    known = verifier.score([boxed(r"2\sqrt{2}")] * 2, [r"\sqrt{8}"] * 2)
    assert [score.verdict for score in known] == [Verdict.CORRECT] * 2
    verifier.close()


def test_a_process_that_dies_is_started_again(pool):
    os.kill(pool._workers[0]._process.pid, signal.SIGKILL)
    time.sleep(0.3)
    verdicts = [pool.submit((r"\sqrt{8}",), r"2\sqrt{2}").result(60).verdict for _ in range(2)]
    assert verdicts == [Verdict.UNSCORED, Verdict.CORRECT]


def test_workers_never_import_torch_and_end_with_the_pool():
    pool = WorkerPool(1)
    pool.wait_ready()
    process = pool._workers[0]._process.pid
    pids = [process, *children(process)]
    maps = [Path(f"/proc/{pid}/maps").read_text() for pid in pids]
    assert len(pids) == 2 and not any("libtorch" in text for text in maps)
    pool.close()
    assert are_gone(pids)


@pytest.mark.parametrize("delay_s", [0.0, 0.2, 1.0])
def test_no_orphan_when_the_parent_ends_while_workers_start(delay_s):
    code = (
        "from nsr_fast.reward.math.pool import WorkerPool\nimport os, time\npool = WorkerPool(1)\n"
        f"while pool._workers[0]._process is None: time.sleep(0.01)\ntime.sleep({delay_s})\n"
        "print(pool._workers[0]._process.pid, flush=True)\nos._exit(0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert are_gone([int(done.stdout)])


def test_no_orphan_after_the_parent_is_killed():
    code = (
        "from nsr_fast.reward.math.pool import WorkerPool\nimport time\n"
        "pool = WorkerPool(2)\npool.wait_ready()\nprint('ready', flush=True)\ntime.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout.readline() == "ready\n"
    pids = children(parent.pid)
    assert len(pids) == 4
    parent.kill()
    parent.wait()
    assert are_gone(pids)


def test_scores_from_many_threads_agree_and_repeats_are_judged_once():
    verifier = MathVerifier(num_workers=2)
    start = time.monotonic()
    pending = verifier.begin(boxed(r"2\sqrt{5}"), r"\sqrt{20}")
    assert time.monotonic() - start < 0.3  # the workers are not there yet
    golds = [rf"\sqrt{{{4 * n}}}" for n in (2, 3, 5)] * 4
    answers = [rf"2\sqrt{{{n}}}" for n in (2, 3, 7)] * 4
    results = []

    def work():
        scores = verifier.score([boxed(a) for a in answers], golds)
        results.append([s.verdict for s in scores])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [[Verdict.CORRECT, Verdict.CORRECT, Verdict.WRONG] * 4] * 4
    assert pending.result().verdict is Verdict.CORRECT
    verifier.count([pending.result()])
    statistics = verifier.statistics()
    assert statistics["verify/in_worker"] == 4 and statistics["verify/correct"] == 33
    assert statistics["verify/fast_share"] == pytest.approx(1 - 4 / 49)
    verifier.close()


def test_truncated_rollouts_are_graded_or_masked():
    columns = {"answer": ["5"] * 3, "finish_reason": ["length", "length", "stop"]}
    responses = [boxed("5"), "so 5 is", boxed("6")]
    part = MathReward()
    for mask, expected in ((False, [1.0, -1.0, -1.0]), (True, [None, None, -1.0])):
        before = part.statistics()
        reward = Reward([(part, 1.0)], mask_truncated=mask)
        assert reward([""] * 3, responses, [[0]] * 3, **columns) == expected
        after = part.statistics()
        grown = {name: n - before.get(name, 0.0) for name, n in after.items()}
        assert grown["verify/correct"] == 1 and grown["verify/wrong"] == 2
        reasons = {name: n for name, n in grown.items() if "/reason/" in name and n}
        assert reasons == {"verify/reason/truncated": 1}
