"""The fault matrix of docs/reliability.md, from the marks of the tests.

python tests/faults/table.py        writes it between its two comment lines
"""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- tests/faults/table.py -->", "<!-- end -->"


def rows() -> list[tuple[str, ...]]:
    """The three texts of every mark `fault`, in the order of the files."""
    found = []
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        constants, calls = {}, []
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
                constants[node.targets[0].id] = node.value.value
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "fault":
                calls.append(node)
        for call in sorted(calls, key=lambda node: node.lineno):
            found.append(tuple(getattr(a, "value", None) or constants[a.id] for a in call.args))
    return found


def table() -> str:
    lines = ["| what happens | exit code | what is kept |", "|---|---|---|"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows()])


def page() -> str:
    """The page with the table of today."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(page())
