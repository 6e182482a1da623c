import json

import pytest

from nsr_fast.errors import InputError
from nsr_fast.reward.verify import main, verify_command


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_cases_print_table_disagreements_and_timing(tmp_path, capsys):
    cases = [
        {"id": "one", "gold": "2", "response": r"\boxed{2}", "expected": True},
        {"answer": 2, "completion": r"\boxed{3}", "expected": "wrong"},
        {"id": "label", "gold": "2", "response": r"\boxed{2.0}", "expected": False},
        {"id": "empty", "gold": "", "response": r"\boxed{2}", "expected": "unscored"},
    ]
    assert main(["--data", write(tmp_path / "cases.jsonl", cases)]) == 0
    text = capsys.readouterr().out
    assert "label: expected wrong, got correct (equal): gold '2', answer '2.0'" in text
    assert "3 of 4 as expected" in text and "p99" in text
    table = [line.split("|")[1].split() for line in text.splitlines() if " | " in line]
    assert table[1:] == [["1", "0", "0"], ["1", "1", "0"], ["0", "0", "1"]]


def test_golds_list_the_failing_rows(tmp_path, capsys):
    rows = [{"id": "a", "prompt": "p", "answer": "2"}, {"id": "b", "prompt": "p", "answer": " "}]
    assert verify_command(golds=write(tmp_path / "data.jsonl", rows)) == 2
    text = capsys.readouterr().out
    assert "b: answer ' ' cannot be used: empty" in text and "1 of 2 golds can be used" in text
    assert "1 empty" in text
    assert "1 repeated problems: b = a" in text
    assert verify_command(golds=write(tmp_path / "good.jsonl", rows[:1])) == 0


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"gold": "2", "response": "x"}, r"cases.jsonl:1: expected: expected true.*got None"),
        ({"gold": "2", "expected": True}, r"cases.jsonl:1: expected gold .*and response"),
        ([1], r"cases.jsonl:1: expected gold"),
    ],
)
def test_bad_cases_are_named(tmp_path, row, message):
    with pytest.raises(InputError, match=message):
        verify_command(cases=write(tmp_path / "cases.jsonl", [row]))
    with pytest.raises(InputError, match="cannot be read"):
        verify_command(cases=str(tmp_path / "none.jsonl"))
    with pytest.raises(InputError, match="expected one of"):
        verify_command()
