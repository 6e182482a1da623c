import pytest

from nsr_fast.errors import InputError
from nsr_fast.reward.code.blocks import fenced_blocks, program_of
from nsr_fast.reward.code.tests import read_tests, rows_with_tests
from nsr_fast.reward.code.tests import tests_of as given_by

F = "def f(x):\n    return x"
INFOS = ['python title="a.py"', "{python}", "{.python .x}", "{python, echo=FALSE}", "Python3"]
INFOS += ["py", "python3.11", "python:main.py", "python,linenos", " python ", "ipython", ""]


def indented(text, columns):
    return "\n".join(" " * columns + line for line in text.split("\n"))


@pytest.mark.parametrize("info", INFOS)
@pytest.mark.parametrize("fence", ["```", "~~~", "`````"])
def test_every_info_string_and_fence_is_read(info, fence):
    for end in ("\n", "\r\n"):
        text = f"It is:\n\n{fence}{info}\n{F}\n{fence}\n\nDone.".replace("\n", end)
        assert program_of(text) == program_of(text, frozenset({"f"})) == F


DOC = 'def f(x):\n    """\n    ```\n    f(1)\n    ```\n    """\n    return x'
BLOCK = f"```python\n{F}\n```"


@pytest.mark.parametrize(
    ("text", "program"),
    [
        (f"1. a\n2. b:\n\n{indented(BLOCK, 3)}\n\n3. c", F),
        (f"10. b:\n\n{indented(BLOCK, 4)}", F),
        (f"- a\n  - b\n\n{indented(BLOCK, 4)}\n- c", F),
        (f"10. a\n    - b\n\n{indented(BLOCK, 4)}", F),
        ("- " + indented(BLOCK, 2).lstrip(), F),
        ("> " + BLOCK.replace("\n", "\n> "), F),
        (indented(BLOCK, 2), F),
        (f"```python\n{F}", F),
        (f"```python\n{DOC}\n```", DOC),
        (f"````python\n{DOC}\n```\n````", DOC + "\n```"),
        (f"~~~python\n{F}\n```\n~~~", F + "\n```"),
        (f"```python\n{F}\n``` no\n```", F + "\n``` no"),
        (f"Use ```x``` so.\n{BLOCK}", F),
    ],
)
def test_fences_close_as_in_commonmark(text, program):
    assert program_of(text) == program


def test_four_blanks_are_no_fence_outside_a_list():
    assert fenced_blocks("Text.\n\n    ```python\n    x\n    ```\n") == []


HELPER = "import math\ndef g(x):\n    return math.floor(x)"


@pytest.mark.parametrize(
    ("blocks", "names", "program"),
    [
        ([F, "print(f(1))"], {"f"}, F),
        ([F, "from solution import f\nprint(f(1))"], {"f"}, F),
        ([F, ">>> f(1)\n1"], {"f"}, F),
        (["def f(x): return 1", F], {"f"}, F),
        (
            [HELPER, "def f(x): return g(x)", "print(f(1))"],
            {"f"},
            f"{HELPER}\n\ndef f(x): return g(x)",
        ),
        (["class Solution:\n    def f(self): pass", "Solution().f()"], {"f"}, None),
        (["print(input())", "print(3)"], set(), "print(input())"),
        (
            ["def run():\n    print(input())", "run()"],
            set(),
            "def run():\n    print(input())\n\nrun()",
        ),
        (["print(1)", "print(2)"], set(), "print(2)"),
        ([F, "print(2)"], {"h"}, "print(2)"),
    ],
)
def test_the_block_that_the_tests_ask_for_counts(blocks, names, program):
    text = "\nThen:\n".join(f"```python\n{block}\n```" for block in blocks)
    assert program_of(text, frozenset(names)) == (program or blocks[0])


def test_other_languages_do_not_count_beside_python():
    text = (
        f"```bash\nls\n```\n{BLOCK}\n```cpp\nint f();\n```\n```\n42\n```\n```pycon\n>>> f(1)\n```"
    )
    assert program_of(text) == F


def test_columns_of_known_data_sets_are_tests():
    check = "def check(candidate):\n    assert candidate(1) == 1"
    call = [{"input": "1", "output": "2", "testtype": "functional"}]
    for row in (
        {"test": check, "entry_point": "f"},
        {"test_list": ["assert f(1) == 1"], "test_setup_code": ""},
        {"input_output": '{"inputs": [[1]], "outputs": [2], "fn_name": "f"}'},
        {"tests": call, "metadata": {"func_name": "f"}},
        {"answer": ["assert f(1) == 1"], "prompt": "p"},
    ):
        assert read_tests(given_by(row)).asked() == {"f"}


def test_integers_of_any_size_are_read():
    digits = "7" * 5000
    (found,) = read_tests(f'{{"fn_name": "f", "inputs": [[1]], "outputs": [{digits}]}}').calls
    assert found.expected % 10**9 == 777777777 and found.expected > 10**4999


@pytest.mark.parametrize(
    ("tests", "message"),
    [
        ([{"input": "1", "output": "2"}, {"input": "1", "output": " \n"}], "an empty output"),
        (["import pytest\ndef test_f():\n    assert f(1)"], "import what programs cannot"),
        (["import torch.nn\nassert f(1)"], "import what programs cannot"),
        ([{"input": "1", "output": "2", "testtype": "functional"}], "cannot be read"),
    ],
)
def test_tests_that_can_teach_nothing_are_named_at_load(tests, message):
    rows = [{"id": "a", "tests": tests}, {"id": "b", "tests": ["assert f(1)"]}]
    with pytest.raises(InputError, match=f"1 of 2 tests .*{message}.*'a'"):
        rows_with_tests(rows)
    assert [row["id"] for row in rows_with_tests(rows, drop_bad_golds=True)] == ["b"]
