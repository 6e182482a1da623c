"""The errors that end a command on purpose; the command line turns them into exit codes."""


class InputError(ValueError):
    """Bad user input: what, where, what was expected, how to mend it. Exit code 2."""


class GuardStop(RuntimeError):
    """A guard stopped the run (stale weights, drift, non-finite loss). Exit code 3."""


class EngineFailure(RuntimeError):
    """The engine raised while it generated; what it said is the cause. Exit code 1."""


class Stopped(KeyboardInterrupt):
    """A signal or the time limit ended the run, which is saved. Exit code 130 for SIGINT, else 143.

    No Exception: what catches those must not swallow it.
    """

    def __init__(self, reason: str, code: int):
        super().__init__(reason)
        self.code = code
