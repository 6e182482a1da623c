"""What a run shows while it lasts."""

import io

from rich.console import Console

from nsr_fast.run.progress import Progress, clock


def test_progress_prints_one_plain_line_a_round_without_a_terminal():
    out = io.StringIO()
    metrics = {"round": 2, "reward": 0.25, "entropy": 1.5, "round_time": 30.0, "loss": None}
    metrics |= {f"time/{phase}": 1.0 for phase in ("rollout", "reward", "train", "sync")}
    with Progress(5, Console(file=out)) as progress:
        progress.round_done(metrics)
    (line,) = out.getvalue().splitlines()
    assert line.startswith("round 2/5  reward 0.250  entropy 1.500")
    assert "grad -" in line and line.endswith("ETA 1:30")


def test_clock():
    assert [clock(s) for s in (5, 65, 3661)] == ["0:05", "1:05", "1:01:01"]
