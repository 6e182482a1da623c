"""A pool of killable worker processes, one item at a time each, every item under a deadline.

A thread per worker sends a request, waits for the reply and kills the child that is late; the pool
works from any thread, uses no signal, and leaves nothing running behind a parent that dies.
"""

import contextlib
import json
import os
import queue
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from concurrent.futures import Future
from pathlib import Path

from nsr_fast.reward.verdict import Score, Verdict

START_DEADLINE_S = 120.0
MAX_WAITS = 4  # deadlines in wall time; only the time a child has a core counts
_ROOT = Path(__file__).parents[3]


class WorkerPool:
    """Judges (golds, candidate) pairs in worker processes.

    num_workers  processes; they start at once, before CUDA is touched, and never import torch
    deadline_s   of one item, counted while the child has a core (and four times as much in all);
                 a late child is killed and replaced, its item is unscored
    memory_mb    address space of a child
    """

    def __init__(
        self, num_workers: int = 2, *, deadline_s: float = 1.0, memory_mb: int = 1024
    ) -> None:
        self.num_kills = 0
        self.latencies_ms: deque[float] = deque(maxlen=10_000)
        self._requests: queue.SimpleQueue = queue.SimpleQueue()
        self._ready = threading.Semaphore(0)
        self._is_closed = False
        self._workers = [_Worker(deadline_s, memory_mb) for _ in range(num_workers)]
        self._threads = [
            threading.Thread(target=self._serve, args=(worker,), name="verifier", daemon=True)
            for worker in self._workers
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, golds: tuple[str, ...], candidate: str) -> "Future[Score]":
        """A future of the score; it never raises for anything in the answer."""
        if self._is_closed:
            raise RuntimeError("the verifier's pool is closed")
        future: Future[Score] = Future()
        self._requests.put((future, {"golds": golds, "candidate": candidate}))
        return future

    def wait_ready(self) -> None:
        """Returns when every worker has imported what it needs."""
        for _ in self._threads:
            self._ready.acquire()

    def close(self) -> None:
        """Ends the workers; pending items become unscored."""
        self._is_closed = True
        for _ in self._threads:
            self._requests.put(None)
        for worker in self._workers:
            worker.end()
        for thread in self._threads:
            thread.join(timeout=5)

    def _serve(self, worker: "_Worker") -> None:
        if not self._is_closed:
            worker.start()
            worker.is_ready()
        self._ready.release()
        while (item := self._requests.get()) is not None:
            future, request = item
            try:
                future.set_result(self._judged(worker, request))
            except OSError as error:
                future.set_result(Score(Verdict.UNSCORED, f"crash: {error}"))
        worker.end()

    def _judged(self, worker: "_Worker", request: dict) -> Score:
        if self._is_closed:
            return Score(Verdict.UNSCORED, "crash: closed")
        if not worker.is_ready():
            return Score(Verdict.UNSCORED, "crash: the worker does not start")
        start = time.perf_counter()
        reply = worker.ask(request)
        self.latencies_ms.append(1e3 * (time.perf_counter() - start))
        self.num_kills += reply["reason"] == "deadline"
        return Score(Verdict(reply["verdict"]), reply["reason"])


class _Worker:
    """One process and the child that serves in it; used by one thread."""

    def __init__(self, deadline_s: float, memory_mb: int) -> None:
        self._deadline_s, self._memory_mb = deadline_s, memory_mb
        self._process: subprocess.Popen | None = None
        self._has_ended = False
        self._last_id = 0
        self._child = 0
        self._pending = b""

    def start(self) -> None:
        """Starts the process without waiting for it to be ready."""
        path = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        command = [sys.executable, "-P", "-m", "nsr_fast.reward.math.worker"]
        self._process = subprocess.Popen(
            [*command, str(os.getpid()), str(self._deadline_s), str(self._memory_mb)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        )
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._process.stdout, selectors.EVENT_READ)
        self._child, self._pending = 0, b""

    def ask(self, request: dict) -> dict:
        """The child's reply, or an unscored one after a deadline or a crash; is_ready() before."""
        start, used_s = time.monotonic(), _used_s(self._child)
        self._last_id += 1
        try:
            message = json.dumps({**request, "id": self._last_id}).encode() + b"\n"
            self._process.stdin.write(message)
        except BrokenPipeError:  # the process has ended; is_ready() starts another
            self._child = 0
            return {"verdict": "unscored", "reason": "crash"}
        reply = self._reply(self._deadline_s)
        while reply is None and self._process.poll() is None:
            elapsed_s = time.monotonic() - start
            now_s = _used_s(self._child)
            ran_s = elapsed_s if used_s is None or now_s is None else now_s - used_s
            if ran_s > 0.98 * self._deadline_s or elapsed_s > MAX_WAITS * self._deadline_s:
                break
            reply = self._reply(max(self._deadline_s - ran_s, 0.02))
        if reply is None:
            if self._process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._child, signal.SIGKILL)
            self._child = 0
            return {"verdict": "unscored", "reason": "deadline"}
        if "hello" in reply:  # the child died and its successor speaks
            self._child = reply["hello"]
            return {"verdict": "unscored", "reason": "crash"}
        if reply["last"]:
            self._child = 0
        return reply

    def _reply(self, timeout_s: float) -> dict | None:
        """The next message that is a hello or answers the last request.

        A child that died before it read a request leaves it to its successor, whose answer to it
        then comes too late and must not pass for the next one's.
        """
        end = time.monotonic() + timeout_s
        while (reply := self._read(end - time.monotonic())) is not None:
            if "hello" in reply or reply["id"] == self._last_id:
                return reply
        return None

    def end(self) -> None:
        """kill, and never start again."""
        self._has_ended = True
        self.kill()

    def kill(self) -> None:
        """Ends the process and its child."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def is_ready(self) -> bool:
        """Waits for the hello of the next child; restarts a process that has ended."""
        for _ in range(0 if self._child or self._has_ended else 2):
            end = time.monotonic() + START_DEADLINE_S
            while (reply := self._read(end - time.monotonic())) is not None:
                if "hello" in reply:
                    self._child = reply["hello"]
                    return True
            self.kill()
            if self._has_ended:
                return False
            self.start()
        return bool(self._child)

    def _read(self, timeout_s: float) -> dict | None:
        """The next message, None when there is none in time or the process has ended."""
        end = time.monotonic() + timeout_s
        while b"\n" not in self._pending:
            left = end - time.monotonic()
            if left <= 0 or not self._selector.select(left):
                return None
            chunk = os.read(self._process.stdout.fileno(), 65536)
            if not chunk:
                return None
            self._pending += chunk
        line, _, self._pending = self._pending.partition(b"\n")
        return json.loads(line)


def _used_s(pid: int) -> float | None:
    """Time that a process has had a core; None where the system does not tell."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
    except (OSError, IndexError):
        return None
