"""Assert tests cut into steps, so that expected values stay out of the sandbox.

    assert f(3) == [1, 2]    the sandbox evaluates f(3), the comparison happens here
    assert f(3)              the same, with the truth of the value
    anything else            is executed in the sandbox, behind the program

A program that patches builtins, traces the tests or returns objects equal to everything can cheat
only where a test has none of the first two forms.
"""

import ast
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nsr_fast.reward.code.inside_values import decoded


@dataclass(frozen=True, slots=True)
class Step:
    """is_value: the sandbox sends back the value of `text`, which `accepts` judges."""

    text: str
    is_value: bool = False
    accepts: Callable[[object], bool] | None = None

    def passes(self, reply: object) -> bool:
        """Whether the reply of the sandbox to this step is a pass."""
        if not self.is_value:
            return reply == "done"
        try:
            return bool(self.accepts(decoded(reply)))
        except (ValueError, TypeError, ArithmeticError, RecursionError):
            return False


def steps_of(tests: Sequence[str]) -> list[Step]:
    """The steps of all tests, in order; what does not parse is executed as it is."""
    steps: list[Step] = []
    try:
        body = [node for test in tests for node in ast.parse(test).body]
    except (SyntaxError, ValueError, RecursionError):
        return [Step(test) for test in tests]
    for node in _inlined(body):
        step = _value_step(node) if isinstance(node, ast.Assert) else None
        steps.append(step or Step(ast.unparse(node)))
    return steps


def _value_step(node: ast.Assert) -> Step | None:
    test, wanted = node.test, True
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        test, wanted = test.operand, False
    if isinstance(test, ast.Call):
        return Step(ast.unparse(test), True, lambda value: bool(value) is wanted)
    if not isinstance(test, ast.Compare) or len(test.ops) != 1 or not wanted:
        return None
    left, operator, right = test.left, test.ops[0], test.comparators[0]
    if isinstance(operator, ast.Eq) and _is_literal(left):
        left, right = right, left
    if not _is_literal(right) or not any(isinstance(n, ast.Call) for n in ast.walk(left)):
        return None
    expected = ast.literal_eval(right)
    accepts = {
        ast.Eq: lambda value: value == expected,
        ast.Is: lambda value: value is expected,
        ast.In: lambda value: value in expected,
    }.get(type(operator))
    return None if accepts is None else Step(ast.unparse(left), True, accepts)


def _is_literal(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return False
    return True


def _inlined(body: list[ast.stmt]) -> list[ast.stmt]:
    """HumanEval's check(candidate): its asserts in place of the call where it is nothing else."""
    checks = {
        node.name: node
        for node in body
        if isinstance(node, ast.FunctionDef)
        and len(node.args.args) == 1
        and all(isinstance(n, ast.Assert | ast.Expr) for n in node.body)
    }
    nodes: list[ast.stmt] = []
    for node in body:
        call = node.value if isinstance(node, ast.Expr) else None
        name = getattr(getattr(call, "func", None), "id", None)
        is_check = isinstance(call, ast.Call) and name in checks and len(call.args) == 1
        if is_check and isinstance(call.args[0], ast.Name):
            renamed = _Renamed(checks[name].args.args[0].arg, call.args[0].id)
            nodes += [renamed.visit(statement) for statement in checks[name].body]
        else:
            nodes.append(node)
    return nodes


class _Renamed(ast.NodeTransformer):
    def __init__(self, old: str, new: str) -> None:
        self._old, self._new = old, new

    def visit_Name(self, node: ast.Name) -> ast.Name:
        return ast.Name(self._new, node.ctx) if node.id == self._old else node
