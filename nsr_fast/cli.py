"""The command `nsr-fast`. Exit codes: 0 done, 2 bad input, 3 stopped by a guard, 1 else."""

import os
import sys
from collections.abc import Callable, Sequence

from nsr_fast.errors import GuardStop, InputError

_USAGE = """usage: nsr-fast VERB [options]

  train   --config FILE.yaml [--key value ...]   train a policy, write a run directory
  report  RUN_DIR                                write RUN_DIR/report.html again
  info                                           versions, devices, what is available and why not
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # read when torch is first imported
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(_USAGE, end="")
        return 0 if words else 2
    try:
        _verb(words[0])(words[1:])
    except InputError as error:
        return _fail(error, 2)
    except GuardStop as error:
        return _fail(error, 3)
    except KeyboardInterrupt:
        return _fail("interrupted", 1)
    return 0


def _verb(name: str) -> Callable[[list[str]], None]:
    verbs = {"train": _train, "report": _report, "info": _info}
    if name not in verbs:
        raise InputError(f"unknown verb {name!r}; expected one of {', '.join(verbs)}")
    return verbs[name]


def _train(words: list[str]) -> None:
    from nsr_fast.config import config_help, load_config, parse_overrides

    if words and words[0] in ("-h", "--help"):
        print(f"nsr-fast train --config FILE.yaml [--key value ...]\n\n{config_help()}")
        return
    overrides = parse_overrides(words)
    config = load_config(overrides.pop("config", None), overrides)
    from nsr_fast.train.loop import train

    train(config)


def _report(words: list[str]) -> None:
    if len(words) != 1 or words[0].startswith("-"):
        raise InputError("report: expected one run directory; write nsr-fast report RUN_DIR")
    from nsr_fast.evaluate import write_report

    print(write_report(words[0]))


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
