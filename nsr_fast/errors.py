"""The errors that end a command on purpose; the command line turns them into exit codes."""


class InputError(ValueError):
    """Bad user input: what, where, what was expected, how to mend it. Exit code 2."""


class GuardStop(RuntimeError):
    """A guard stopped the run (stale weights, drift, non-finite loss). Exit code 3."""


class EngineFailure(RuntimeError):
    """The engine raised while it generated; what it said is the cause. Exit code 1."""
