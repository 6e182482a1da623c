"""Runs of the command, each a process with a session of its own, forked from one that has imported
torch and transformers already: a start costs a second instead of fifteen.
"""

import json
import multiprocessing
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from cli.tiny_runs import SETTINGS, train_rows, write_rows
from faults import places
from faults.places import Fault

DEADLINE_S = 120
RUNS = multiprocessing.get_context("forkserver")
RUNS.set_forkserver_preload(
    ["nsr_fast.train.loop", "nsr_fast.rollout.transformers_engine", "transformers", "datasets"]
)
EVAL_ROWS = [{"id": f"e{i}", "problem": f"{i}-1=", "answer": "7"} for i in range(3)]
ROUNDS, SAVE_ROUNDS = 6, 2
KEYS = SETTINGS | {
    "max_rounds": ROUNDS,
    "save_rounds": SAVE_ROUNDS,
    "eval_rounds": SAVE_ROUNDS,
    "eval_num_samples": 4,
    "sample_rollouts": 100,
    "max_num_seqs": 4,  # a round is two batches of the engine
}
# the third round goes wrong as the file `does` says, until the file `well` is there
REWARD = """
import asyncio, time
from pathlib import Path

HERE = Path(__file__).parent

def rewards_of(completion_ids):
    return [1.0 if ids[0] % 2 else -1.0 for ids in completion_ids]

def does(trainer_state, id):
    is_third = trainer_state.global_step == 3 and id[0][0] == "t"
    return (HERE / "does").read_text() if is_third and not (HERE / "well").exists() else ""

def parity(completion_ids, trainer_state, id, **columns):
    fault = does(trainer_state, id)
    if fault == "waits":
        (HERE / "here").touch()
        while not (HERE / "go").exists():
            time.sleep(0.02)
    if fault == "hangs":
        time.sleep(1000)
    if fault == "raises":
        raise KeyError("gold")
    return rewards_of(completion_ids)[fault == "wrong length":]

async def parity_async(completion_ids, trainer_state, id, **columns):
    if does(trainer_state, id) == "hangs":
        await asyncio.sleep(1000)
    return rewards_of(completion_ids)
"""


@dataclass
class Running:
    """One process of the command."""

    folder: Path
    process: object
    name: str
    started: float = field(default_factory=time.monotonic)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def run(self) -> Path:
        return self.folder / "run"

    def text(self, stream: str) -> str:
        return (self.folder / f"{self.name}.{stream}").read_text()

    @property
    def out(self) -> str:
        return self.text("out")

    @property
    def err(self) -> str:
        return self.text("err")

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def code(self) -> int:
        """The exit code; negative: the signal. Nothing of its session is left."""
        self.process.join(DEADLINE_S)
        assert self.process.exitcode is not None, self.out
        assert in_session(self.pid) == []
        return self.process.exitcode

    def wait_until(self, is_so) -> None:
        wait_until(lambda: is_so() or not self.process.is_alive())
        assert self.process.is_alive(), self.err

    def is_here(self) -> None:
        """Wait for the place of the fault."""
        self.wait_until((self.folder / "here").exists)

    def goes_on(self) -> None:
        (self.folder / "go").touch()


def wait_until(is_so) -> None:
    end = time.monotonic() + DEADLINE_S
    while not is_so():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def in_session(number: int) -> list[int]:
    """The living processes of a session."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == number and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


def start(folder: Path, model: Path, *faults: Fault, does: str = "", **settings) -> Running:
    """A new run in folder/run; `does` is the fault of its reward."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "reward.py").write_text(REWARD)
    (folder / "does").write_text(does)
    keys = KEYS | {
        "model": model,
        "data": write_rows(model.parent / "train.jsonl", train_rows()),
        "eval_data": write_rows(model.parent / "eval.jsonl", EVAL_ROWS),
        "reward": f"{folder}/reward.py:{settings.pop('reward', 'parity')}",
        "output_dir": folder / "run",
        **settings,
    }
    return command(folder, "train", *options(keys), faults=faults)


def resume(folder: Path, *faults: Fault, **settings) -> Running:
    """`nsr-fast resume` of the run in the folder."""
    return command(folder, "resume", folder / "run", *options(settings), faults=faults)


def command(folder: Path, *words, faults=(), name: str | None = None) -> Running:
    name = name or f"start-{len(list(folder.glob('*.out'))) + 1}"
    for stream in ("out", "err"):
        (folder / f"{name}.{stream}").touch()
    arguments = (list(map(str, words)), str(folder), name, faults)
    process = RUNS.Process(target=_run, args=arguments)
    process.start()
    return Running(folder, process, name)


def options(settings: dict) -> list[str]:
    given = {key: value for key, value in settings.items() if value is not None}
    return [word for key, value in given.items() for word in (f"--{key}", str(value))]


def _run(words: list[str], folder: str, name: str, faults: tuple[Fault, ...]) -> None:
    os.setsid()
    for number, stream in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{folder}/{name}.{stream}", os.O_WRONLY | os.O_APPEND), number)
    sys.stdout, sys.stderr = (open(n, "w", buffering=1, closefd=False) for n in (1, 2))  # noqa: SIM115
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):  # ignored where nohup runs tests
        signal.signal(number, signal.SIG_DFL)
    for fault in faults:
        places.install(fault, Path(folder))
    from nsr_fast.cli import main

    sys.exit(main(words))


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
