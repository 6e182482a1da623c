import json

import pytest

from nsr_fast.errors import InputError
from nsr_fast.reward import Verdict, usable_rows, verify_math
from nsr_fast.reward.math import gold_faults
from nsr_fast.reward.verify import verify_command

READ = [
    ("There are 25 ways.", "25"),
    (r"The area is $12\pi$ square cm.", r"12\pi"),
    ("He needs 1,200 bricks.", "1,200"),
    (r"So the sum equals \frac{3}{4}.", r"\frac{3}{4}"),
    ("The value of x is 5", "5"),
    ("There are twelve ways", "12"),
    ("She sold 72 clips altogether.", "72"),
    ("The vertex is (2, -3).", "(2, -3)"),
    ("5*3=15\n#### 15", "15"),
    ("0.4545...", "0.4545..."),
    ("#### -7", "-7"),
    ("Final Answer: $x^2$", "$x^2$"),
    ('["7"]', "7"),
    ("3 &gt; x", "3 > x"),
    (r"Hence $y=\boxed{8}$.", "8"),
]
KEPT = [
    *("June 20", "5 apples", "all real numbers", "isosceles triangle", r"\text{no solution}"),
    *("x = 3 or x = 5", "(A) 12", "none", "1" * 300, r"3^{3^{90}}", "DNE", "12 cm by 5 cm"),
]
REFUSED = [
    ("empty", ["", " ", "$$", r"\boxed{}", "####"]),
    ("placeholder", ["None", "nan", "unknown", "TODO", "see above", "??", "(proof)", "—"]),
    ("placeholder", [r"\text{N/A}", "Answers may vary", "The solution is omitted.", "QED"]),
    ("control character", ["\x0crac{1}{2}", "\x08oxed{5}", "\x07lpha", "4\rho"]),
    ("lost backslash", ["3\times 4", "5\neq 6", "rac{1}{2}", "10\text{ cm}", "\nu"]),
    (
        "a sentence without an answer",
        ["It can be shown by induction on the size", "We assume that the claim fails."],
    ),
    ("a sentence with several formulas", ["The points are $(1,2)$ and $(3,4)$."]),
    ("too long", ["a" * 2500, "x+" * 1500 + "1"]),
    ("dots that stand for something", [r"1+2+\cdots+9", "1, 2, 3, ...", "1+2+...+9"]),
    ("unreadable formula", ["5?", r"x \vdash y", "3 +"]),
    ("unbalanced", [r"\frac{1}{2"]),
]


def rows_of(answers):
    return [{"id": f"r{i}", "prompt": "p", "answer": a} for i, a in enumerate(answers)]


def test_prose_and_solutions_are_read_as_their_one_formula():
    rows = usable_rows(rows_of([text for text, _ in READ]))
    assert [row["answer"] for row in rows] == [read for _, read in READ]
    assert all(verify_math(rf"\boxed{{{read}}}", text) is Verdict.CORRECT for text, read in READ)


def test_short_answers_in_words_and_numbers_are_kept():
    answers = [*KEPT, 7, 0.5, ["3", 4]]
    assert [row["answer"] for row in usable_rows(rows_of(answers))] == answers


@pytest.mark.parametrize(("kind", "answers"), REFUSED)
def test_damaged_golds_are_refused_by_kind(kind, answers):
    faults = gold_faults(rows_of(answers))
    assert [(row["id"], found) for row, found in faults] == [
        (f"r{i}", kind) for i in range(len(answers))
    ]


def test_the_refusal_names_rows_and_counts_kinds_and_dropping_keeps_the_others():
    rows = rows_of(["2", "N/A", "TBD", "\x0crac12", ["3", ""]])
    message = (
        r"4 of 5 answers .*2 placeholder, 1 control character, 1 empty.*'r1', 'r2', 'r3', 'r4'"
    )
    with pytest.raises(InputError, match=message):
        usable_rows(rows)
    assert [row["id"] for row in usable_rows(rows, drop_bad_golds=True)] == ["r0"]


def test_the_command_prints_the_table_by_kind(tmp_path, capsys):
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows_of(["2", "N/A", "TBD", "5?"])))
    assert verify_command(golds=str(path)) == 2
    lines = capsys.readouterr().out.splitlines()
    assert "r1: answer 'N/A' cannot be used: placeholder" in lines
    assert "       2 placeholder" in lines and "       1 unreadable formula" in lines
    assert lines[-1].startswith("1 of 4 golds can be used, 3 not")
