"""The command `nsr-fast`. Exit codes: 0 done, 2 bad input, 3 stopped by a guard, 130 and 143 asked
to stop (by SIGINT; by another signal or max_time) and saved, 1 else."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nsr_fast.errors import EngineFailure, GuardStop, InputError, Stopped

if TYPE_CHECKING:
    from nsr_fast.config import Config

_USAGE = """usage: nsr-fast VERB [options]

  train   --config FILE.yaml [--key value ...]   train a policy, write a run directory
  resume  RUN_DIR [--key value ...]              go on with a run that was stopped
  plan    --config FILE.yaml [--key value ...]   what takes how much memory, and what fits
  merge   ADAPTER_DIR OUT_DIR                    an adapter and its base as one checkpoint
  report  RUN_DIR                                write RUN_DIR/report.html again
  verify  --data CASES.jsonl | --golds DATA      audit the math verifier, or a data set's answers
  check                                          every kernel backend here against float64
  bench   [--cpu] [--peers] ...                  time the vocabulary head's loss
  info                                           versions, devices, what is available and why not
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # read when torch is first imported
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(_USAGE, end="")
        return 0 if words else 2
    asks_help = words[1:] in (["-h"], ["--help"]) and words[0] in ("report", "check", "info")
    if asks_help:  # the other verbs have a page of their own
        print(_USAGE, end="")
        return 0
    try:
        return _verb(words[0])(words[1:]) or 0
    except InputError as error:
        return _fail(error, 2)
    except GuardStop as error:
        return _fail(error, 3)
    except EngineFailure as error:
        return _fail(error, 1)
    except Stopped as stop:
        return _fail(f"stopped by {stop}", stop.code)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except OSError as error:  # a full disk, say
        return _fail(error, 1)
    except (MemoryError, RuntimeError) as error:
        if type(error).__name__ not in ("MemoryError", "OutOfMemoryError"):  # torch's is the latter
            raise
        return _fail(f"out of memory: {error}; nsr-fast plan says what takes how much", 1)


def _verb(name: str) -> Callable[[list[str]], int | None]:
    verbs = {
        "train": _train,
        "resume": _resume,
        "plan": _plan,
        "merge": _merge,
        "report": _report,
        "verify": _verify,
        "check": _check,
        "bench": _bench,
        "info": _info,
    }
    if name not in verbs:
        raise InputError(f"unknown verb {name!r}; expected one of {', '.join(verbs)}")
    return verbs[name]


def _train(words: list[str]) -> None:
    from nsr_fast.config_file import config_help, load_config, parse_overrides

    if words and words[0] in ("-h", "--help"):
        print(f"nsr-fast train --config FILE.yaml [--key value ...]\n\n{config_help()}")
        return
    overrides = parse_overrides(words)
    _run(load_config(overrides.pop("config", None), overrides))


def _resume(words: list[str]) -> None:
    from nsr_fast.config_file import load_config, parse_overrides

    if not words or words[0].startswith("-"):
        raise InputError("resume: expected a run directory; write nsr-fast resume RUN_DIR")
    folder = Path(words[0]).expanduser()
    if not (folder / "config.yaml").is_file():
        raise InputError(f"resume: {folder}: expected the directory of a run, with its config.yaml")
    keys = {"output_dir": str(folder), "resume_from_checkpoint": "true"}
    overrides = parse_overrides(words[1:])
    if "overwrite" in overrides:
        raise InputError("resume: --overwrite: a resumed run goes on where it is; remove it")
    if "output_dir" in overrides and "resume_from_checkpoint" not in overrides:
        raise InputError(
            f"resume: --output_dir: a resumed run stays in {folder}; for another that begins with "
            f"its checkpoint, add --resume_from_checkpoint {folder}/checkpoints/last"
        )
    from nsr_fast.run.resume import has_checkpoints, nothing_to_resume

    if "resume_from_checkpoint" not in overrides and not has_checkpoints(folder):
        raise InputError(nothing_to_resume(folder))
    _run(load_config(str(folder / "config.yaml"), keys | overrides))


def _run(config: "Config") -> None:
    from nsr_fast.train.stop import Stop

    with Stop(config.run.max_time) as stop:  # before torch is loaded: that takes a while
        from nsr_fast.train.loop import train

        train(config, stop)


def _plan(words: list[str]) -> None:
    from nsr_fast.config_file import config_help, load_config, parse_overrides

    if words and words[0] in ("-h", "--help"):
        head = "nsr-fast plan --config FILE.yaml [--key value ...] [--device cpu|cuda]"
        print(f"{head}\n\nReads config.json of the model only; the keys are those of train.\n")
        print(config_help())
        return
    overrides = {"data": "not read", "output_dir": "not read", **parse_overrides(words)}
    device = overrides.pop("device", None)
    config = load_config(overrides.pop("config", None), overrides)
    from nsr_fast.run.plan import print_plan

    print_plan(config, device)


def _report(words: list[str]) -> None:
    if len(words) != 1 or words[0].startswith("-"):
        raise InputError("report: expected one run directory; write nsr-fast report RUN_DIR")
    from nsr_fast.run.report import write_report

    print(write_report(Path(words[0]).expanduser()))


def _merge(words: list[str]) -> None:
    from nsr_fast.run.merge import main as merge

    merge(words)


def _verify(words: list[str]) -> int:
    from nsr_fast.reward.verify import main as verify

    return verify(words)


def _check(words: list[str]) -> int:
    if words:
        raise InputError(f"check: takes no options, got {' '.join(words)}")
    from nsr_fast.bench.check import run_check

    return 0 if run_check() else 1


def _bench(words: list[str]) -> None:
    import torch

    from nsr_fast.bench.head_loss import run_bench

    run_bench(words if torch.cuda.is_available() else ["--cpu", *words])


def _info(words: list[str]) -> None:
    if words:
        raise InputError(f"info: takes no options, got {' '.join(words)}")
    from nsr_fast.info import print_info

    print_info()


def _fail(error: object, code: int) -> int:
    print(f"nsr-fast: {' '.join(str(error).split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
