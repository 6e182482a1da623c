import gzip
import json

import pyarrow as pa
import pyarrow.parquet
import pytest

from nsr_fast.data import read_rows
from nsr_fast.errors import InputError

GOOD = {"problem": "1+1?", "answer": "2"}


def write_jsonl(path, rows):
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wb") as file:
        file.write(text.encode())
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json"])
def test_jsonl_rows_have_id_prompt_answer_and_other_columns(tmp_path, name):
    rows = [{"id": 7, "problem": "p", "answer": 3, "level": "Level 1"}, {"prompt": "q", **GOOD}]
    read = read_rows(write_jsonl(tmp_path / name, rows))
    assert [(r["id"], r["prompt"], r["answer"]) for r in read] == [
        ("7", "p", 3),
        ("row-1", "q", "2"),
    ]
    assert read[0]["level"] == "Level 1"


def test_blank_lines_are_skipped_and_limit_stops_early(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [GOOD, "", GOOD, "{broken"])
    assert len(read_rows(path, limit=2)) == 2


def test_repeated_ids_become_unique(tmp_path):
    rows = [{"id": i, **GOOD} for i in ("a", "a", "b", "a#2", "a")]
    read = read_rows(write_jsonl(tmp_path / "a.jsonl", rows))
    assert [r["id"] for r in read] == ["a", "a#3", "b", "a#2", "a#4"]


@pytest.mark.parametrize(
    "answer", ["2", 2, 0.5, ["1/2", 0.5], {"numbers": [1, 2], "target": 3}], ids=repr
)
def test_answers_of_every_kind_pass(tmp_path, answer):
    path = write_jsonl(tmp_path / "a.jsonl", [{"prompt": "p", "answer": answer}])
    assert read_rows(path)[0]["answer"] == answer


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{oops", r"a\.jsonl:2: broken JSON at column 2"),
        ("[1]", r"a\.jsonl:2: expected a JSON object, got list"),
        ({"answer": "2"}, r"a\.jsonl:2: no prompt; expected a column prompt.*prompt_column"),
        ({"prompt": "p"}, r"a\.jsonl:2: no answer"),
        ({"prompt": "p", "answer": None}, r"a\.jsonl:2: no answer"),
        ({"prompt": "p", "answer": True}, r"a\.jsonl:2: answer: expected text.*got bool True"),
        ({"prompt": "p", "answer": []}, r"a\.jsonl:2: answer: expected text.*got list"),
        ('{"prompt": "p", "answer": NaN}', r"a\.jsonl:2: answer: .*got float nan"),
        ({"prompt": "  ", "answer": "2"}, r"a\.jsonl:2: prompt is empty"),
        ({"prompt": 5, "answer": "2"}, r"a\.jsonl:2: prompt: expected text or a list.*int 5"),
        ({"prompt": [{"role": "user"}], "answer": "2"}, r"a\.jsonl:2: prompt: expected text"),
        ({"id": [1], **GOOD}, r"a\.jsonl:2: id: expected text or an integer"),
    ],
)
def test_a_bad_row_is_named(tmp_path, row, message):
    path = write_jsonl(tmp_path / "a.jsonl", [GOOD, row])
    with pytest.raises(InputError, match=message) as error:
        read_rows(path)
    assert "\n" not in str(error.value)


def test_files_that_are_missing_empty_or_damaged_are_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.jsonl: no such file"):
        read_rows(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match="no such file"):
        read_rows(tmp_path / "none.parquet")
    with pytest.raises(InputError, match="no such file or folder"):
        read_rows(tmp_path / "none")
    with pytest.raises(InputError, match="no rows"):
        read_rows(write_jsonl(tmp_path / "empty.jsonl", ["", ""]))
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b"x" * 99)[:-9])
    with pytest.raises(InputError, match="not a complete gzip file"):
        read_rows(tmp_path / "cut.jsonl.gz")
    (tmp_path / "no.jsonl.gz").write_bytes(b"plain")
    with pytest.raises(InputError, match="not a complete gzip file"):
        read_rows(tmp_path / "no.jsonl.gz")
    (tmp_path / "no.parquet").write_bytes(b"plain")
    with pytest.raises(InputError, match="not a readable parquet file"):
        read_rows(tmp_path / "no.parquet")
    (tmp_path / "latin.jsonl").write_bytes(b'{"prompt": "\xe9"}\n')
    with pytest.raises(InputError, match=r"latin\.jsonl:1: not UTF-8"):
        read_rows(tmp_path / "latin.jsonl")


def test_parquet_plain_and_bad_row(tmp_path):
    path = tmp_path / "a.parquet"
    pa.parquet.write_table(pa.table({"prompt": ["p", "q"], "answer": ["1", None]}), path)
    with pytest.raises(InputError, match=r"a\.parquet: row 2: no answer"):
        read_rows(path)
    pa.parquet.write_table(pa.table({"prompt": ["p", "q"], "answer": ["1", "2"]}), path)
    assert [r["answer"] for r in read_rows(path)] == ["1", "2"]


def verl_row(prompt, truth, index):
    extra = {"split": "train", "index": index}
    chat = [{"role": "user", "content": prompt}]
    return {"prompt": chat, "reward_model": {"ground_truth": truth}, "extra_info": extra}


def test_parquet_in_verl_layout(tmp_path):
    pa.parquet.write_table(
        pa.Table.from_pylist([verl_row("p", "42", 0), verl_row("q", "43", 5)]),
        tmp_path / "a.parquet",
    )
    read = read_rows(tmp_path / "a.parquet")
    assert [(r["id"], r["prompt"], r["answer"]) for r in read] == [
        ("train-0", "p", "42"),
        ("train-5", "q", "43"),
    ]


def test_verl_solution_box_is_preferred_to_the_damaged_target(tmp_path):
    matrix = r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"
    truths = [
        {"solution": rf"so $\boxed{{{matrix}}}$.", "target": r"\begin{pmatrix}1\2\end{pmatrix}"},
        {"solution": "no box", "target": "7"},
    ]
    rows = [verl_row("p", truth, i) for i, truth in enumerate(truths)]
    read = read_rows(write_jsonl(tmp_path / "a.jsonl", rows))
    assert [r["answer"] for r in read] == [matrix, "7"]


def test_a_folder_loads_through_datasets(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    (tmp_path / "set").mkdir()
    write_jsonl(tmp_path / "set" / "train.jsonl", [GOOD, GOOD])
    assert [r["answer"] for r in read_rows(tmp_path / "set")] == ["2", "2"]


def test_tests_stand_in_for_an_answer(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"prompt": "p", "tests": ["assert f(1) == 2"]}])
    assert read_rows(path)[0]["tests"] == ["assert f(1) == 2"]
