from nsr_fast.data.repeats import data_warnings, duplicate_ids, overlapping_ids


def rows(*pairs):
    return [{"id": name, "prompt": prompt} for name, prompt in pairs]


TRAIN = rows(
    ("a", "1 + 1?"), ("b", "1  +\n1?"), ("c", "2?"), ("d", [{"role": "user", "content": "2?"}])
)


def test_repeated_problems_are_paired_with_the_first():
    assert duplicate_ids(TRAIN) == [("b", "a"), ("d", "c")]


def test_overlap_names_both_rows():
    assert overlapping_ids(TRAIN, rows(("x", "3?"), ("y", "2?"))) == [("y", "c")]


def test_warnings_are_one_line_each():
    lines = data_warnings(TRAIN, rows(("y", "2?")))
    assert lines == [
        "data: 2 repeated problems: b = a, d = c",
        "data: 1 evaluation problems are trained on: y = c",
    ]
    assert data_warnings(TRAIN[:1]) == []
