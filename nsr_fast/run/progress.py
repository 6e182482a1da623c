"""What a run shows while it lasts: a live panel on a terminal, plain lines anywhere else."""

import time
from collections.abc import Mapping

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

_PHASES = ("rollout", "reward", "train", "sync")


class Progress:
    """Use as a context manager; `round_done` and `evaluating` update it."""

    def __init__(self, max_rounds: int, console: Console | None = None):
        self._console = console or Console()
        self._max_rounds = max_rounds
        self._live: Live | None = None
        self._rows: list[Mapping] = []
        self._status = "starting"
        self._round_seconds: list[float] = []

    def __enter__(self) -> "Progress":
        if self._console.is_terminal:
            self._live = Live(self._panel(), console=self._console, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def say(self, text: str) -> None:
        """One line that stays."""
        (self._live.console if self._live else self._console).print(
            Text(text), soft_wrap=True, highlight=False
        )

    def status(self, text: str) -> None:
        """What is going on now (panel only)."""
        self._status = text
        if self._live:
            self._live.update(self._panel())

    def round_done(self, metrics: Mapping) -> None:
        """Show one round's metrics."""
        self._round_seconds.append(metrics["round_time"])
        self._rows.append(metrics)
        if self._live:
            self._live.update(self._panel())
        else:
            self.say(round_line(metrics, self._max_rounds, self.eta_seconds(metrics["round"])))

    def eta_seconds(self, round_index: int) -> float:
        """Rounds left times the mean of the last ten; evaluations are not counted."""
        recent = self._round_seconds[-10:]
        return (self._max_rounds - round_index) * sum(recent) / len(recent)

    def _panel(self) -> Table:
        table = Table(title=None, expand=False, box=None, header_style="bold")
        columns = ("round", "reward", "entropy", "length", "trained", "grad norm", "drift", "tok/s")
        for name in (*columns, *(f"{phase} s" for phase in _PHASES)):
            table.add_column(name, justify="right")
        for metrics in self._rows[-12:]:
            table.add_row(*_cells(metrics, self._max_rounds))
        eta = ""
        if self._rows:
            eta = f"   ETA {clock(self.eta_seconds(self._rows[-1]['round']))}"
        table.caption = f"{time.strftime('%H:%M:%S')}  {self._status}{eta}"
        return table


def round_line(metrics: Mapping, max_rounds: int, eta_seconds: float) -> str:
    """The plain form of one round."""
    cells = _cells(metrics, max_rounds)
    names = ("round", "reward", "entropy", "length", "trained", "grad", "drift", "tok/s")
    head = "  ".join(f"{name} {cell}" for name, cell in zip(names, cells))
    phases = " ".join(f"{phase} {metrics[f'time/{phase}']:.2f}" for phase in _PHASES)
    return f"{head}  seconds: {phases}  ETA {clock(eta_seconds)}"


def clock(seconds: float) -> str:
    """m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _cells(metrics: Mapping, max_rounds: int) -> list[str]:
    def number(key: str, form: str) -> str:
        return "-" if metrics.get(key) is None else format(metrics[key], form)

    return [
        f"{metrics['round']}/{max_rounds}",
        number("reward", ".3f"),
        number("entropy", ".3f"),
        number("completion_length_mean", ".1f"),
        number("trained_fraction", ".0%"),
        number("grad_norm", ".3f"),
        number("drift_mean", ".0e"),
        number("tokens_per_s", ",.0f"),
        *(number(f"time/{phase}", ".2f") for phase in _PHASES),
    ]
