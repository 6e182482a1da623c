"""The tests' process: runs the tests against stand-ins of the program and knows the verdict.

It is forked beside the program's process, which it shares nothing with but a pair of pipes; it
reads the tests after that fork. Follows the text of inside_channel.py.
"""

import sys
import types

UNTESTED = b"untested"


def run_tests(message, program):
    """The verdict of all tests: passed, failed or untested when none of them asked the program."""
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    for name in message["modules"]:
        sys.modules[name] = ProgramModule(name, program)
    sys.argv = ["tests.py"]
    import_names(message["prelude"], module.__dict__)
    program.start()
    for name, value in program.request("names", message["names"]).items():
        if isinstance(value, Handle):
            object.__setattr__(value, "_nsr_is_made", name.lstrip("_")[:1].isupper())
        module.__dict__[name] = value
    program.num_requests = 0
    try:
        for text in message["statements"]:
            exec(compile(text, "<test>", "exec"), module.__dict__)
        run_cases(module.__dict__, message["uncalled"])
    except SystemExit as error:
        has_failed = error.code not in (None, 0, False) or hasattr(error, "is_of_program")
        if has_failed or "unittest" not in sys.modules:
            return b"failed"
    if message["calls"] and not calls_pass(message, program):
        return b"failed"
    return b"passed" if program.num_requests else UNTESTED


class ProgramModule(types.ModuleType):
    """The program as the module that tests import."""

    def __init__(self, name, program):
        super().__init__(name)
        self.__dict__["_nsr_program"] = program
        self.__dict__["__all__"] = []

    def __getattr__(self, name):
        found = self._nsr_program.request("names", [name])
        if name not in found:
            raise AttributeError(name)
        return found[name]


def run_cases(namespace, uncalled):
    """Test classes that are defined, and test functions that nothing calls."""
    for name in uncalled:
        namespace[name]()
    if "unittest" not in sys.modules:
        return
    import unittest

    suite = unittest.TestSuite()
    for value in list(namespace.values()):
        if isinstance(value, type) and issubclass(value, unittest.TestCase):
            suite.addTests(unittest.defaultTestLoader.loadTestsFromTestCase(value))
    result = unittest.TestResult()
    suite.run(result)
    if not result.wasSuccessful():
        raise AssertionError("a test case failed")


def calls_pass(message, program):
    """Whether every call returns what is expected, all of them bare or all in lists of one."""
    function = program.request("method", message["fn_name"])
    if not isinstance(function, Handle):
        return False
    program.num_requests += 1
    is_bare, is_wrapped = True, message["may_be_wrapped"]
    for call in message["calls"]:
        message["tick"]()
        value = function(*call["arguments"], **call["keywords"])
        expected = call["expected"]
        is_bare = is_bare and values_match(value, expected)
        is_wrapped = is_wrapped and values_match(value, expected[0])
        if not is_bare and not is_wrapped:
            return False
    return True


def values_match(value, expected):
    """Equality as JSON tells it: tuples are lists, keys are texts; only floats have a tolerance."""
    if isinstance(expected, float) and not isinstance(value, bool):
        if not isinstance(value, int | float):
            return False
        if expected != expected:
            return value != value
        is_near = abs(value - expected) <= 1e-6 * max(1.0, abs(expected))
        return value == expected or (is_near and abs(expected) != float("inf"))
    if type(value).__name__ == "ndarray":
        value = value.tolist()
    if isinstance(expected, list | tuple):
        is_same = isinstance(value, list | tuple) and len(value) == len(expected)
        return is_same and all(map(values_match, value, expected))
    if isinstance(expected, dict) and isinstance(value, dict):
        if all(isinstance(key, str) for key in expected):
            value = {key if isinstance(key, str) else str(key): v for key, v in value.items()}
        is_same = value.keys() == expected.keys()
        return is_same and all(values_match(value[key], expected[key]) for key in expected)
    return bool(value == expected)


def verdict_of(message, program):
    """run_tests, with any exception a failure."""
    try:
        return run_tests(message, program)
    except BaseException:
        return b"failed"
