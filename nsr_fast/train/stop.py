"""What asks a run to stop: signals and the time limit.

The first request raises Stopped where the run is, so that the longest phase ends at once; between
hold() and release(), while weights or files are half written, it waits. A second one (a second
later: launchers send them in pairs) ends the process there and then, which no file minds: each is
renamed when it is whole.
"""

import os
import signal
import threading
import time

from nsr_fast.errors import Stopped

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
_PAIR_S = 1.0
_END_S = 6.0  # the report, the engine's end


class Stop:
    """Use as a context manager, in the main thread; elsewhere signals are left alone.

    max_time   seconds after which the process has saved and ended; None: no limit
    """

    def __init__(self, max_time: float | None = None):
        self._max_time = max_time
        self._started = time.monotonic()
        self._save_s = self._round_s = 0.0
        self._before: dict[int, object] = {}
        self._pending: Stopped | None = None
        self._asked_at: float | None = None
        self._is_held = False
        self._timer: threading.Timer | None = None

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():
            for number in (getattr(signal, name) for name in _NAMES):
                if signal.getsignal(number) != signal.SIG_IGN:  # nohup, a job in the background
                    self._before[number] = signal.signal(number, self._on_signal)
        self._set_timer()
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer:
            self._timer.cancel()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def hold(self) -> None:
        """Requests wait from here on."""
        self._is_held = True

    def release(self) -> None:
        """Raise the one that came meanwhile."""
        self._is_held = False
        self.check()

    def check(self) -> None:
        """Raise one that waits, or that something swallowed where it was raised."""
        if self._pending and not self._is_held:
            raise self._pending

    @property
    def is_asked(self) -> bool:
        return self._pending is not None

    def saved(self, seconds: float) -> None:
        """How long a save took: so much is left for the last one."""
        self._save_s = max(seconds, self._save_s)
        self._set_timer()

    def round_done(self, seconds: float) -> None:
        """How long a round took. Raises Stopped where the next one would not end in time."""
        self._round_s = max(seconds, self._round_s * 0.9)
        if self._max_time is not None and self._left_s() < self._round_s:
            raise Stopped(f"max_time {self._max_time:g} s: the next round would not end in it", 143)

    def _left_s(self) -> float:
        """Until the last save must begin."""
        end = self._started + self._max_time - _END_S - 1.5 * self._save_s
        return end - time.monotonic()

    def _set_timer(self) -> None:
        if self._max_time is None or not self._before:
            return
        if self._timer:
            self._timer.cancel()
        main = threading.main_thread().ident
        ring = lambda: signal.pthread_kill(main, signal.SIGUSR1)  # noqa: E731
        self._timer = threading.Timer(max(0.0, self._left_s()), ring)
        self._timer.daemon = True
        self._timer.start()

    def _on_signal(self, number: int, _: object) -> None:
        now, code = time.monotonic(), 130 if number == signal.SIGINT else 143
        if self._asked_at is not None:
            if now - self._asked_at > _PAIR_S:
                os._exit(code)
            return
        self._asked_at = now
        if self._timer:
            self._timer.cancel()
        name = signal.Signals(number).name
        if self._max_time is not None and number == signal.SIGUSR1 and self._left_s() <= 0:
            name = f"max_time {self._max_time:g} s"
        self._pending = Stopped(name, code)
        if self._is_held:  # print() could have been interrupted just now
            os.write(1, f"{name}: stopping after this step; once more: at once\n".encode())
        self.check()
