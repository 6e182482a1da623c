"""The printed summary of two evaluations."""

from nsr_fast.evaluate.sample import Evaluation
from nsr_fast.evaluate.summary import summary_lines


def evaluation(num_correct, entropy):
    return Evaluation(
        num_samples=4, num_correct=num_correct, entropy=entropy, completion_length_mean=8.0
    )


def test_summary_of_known_counts():
    """Two problems of four samples: 0 and 0 correct before, 2 and 4 after. A bootstrap over two
    problems draws each of them, or both, so the intervals reach from one problem to the other."""
    lines = summary_lines("nsr", evaluation((0, 0), 1.25), evaluation((2, 4), 0.5))
    cells = [line.split() for line in lines[3:6]]
    none = ["0.000", "[0.000,", "0.000]"]
    assert cells == [
        ["1", *none, "0.750", "[0.500,", "1.000]", "+0.750", "[+0.500,", "+1.000]"],
        ["2", *none, "0.917", "[0.833,", "1.000]", "+0.917", "[+0.833,", "+1.000]"],
        ["4", *none, "1.000", "[1.000,", "1.000]", "+1.000", "[+1.000,", "+1.000]"],
    ]
    assert lines[1].startswith("Pass@k on 2 problems, 4 samples each")
    assert lines[6:] == ["entropy of sampled tokens: 1.250 -> 0.500 nats"]


def test_a_loss_has_a_minus_sign():
    lines = summary_lines("psr", evaluation((4, 4), 1.0), evaluation((4, 0), 1.0))
    assert lines[3].split()[7:] == ["-0.500", "[-1.000,", "+0.000]"]
    assert "after psr" in lines[2]


def test_no_summary_without_two_evaluations():
    known = evaluation((1,), 1.0)
    assert summary_lines("nsr", None, known) == summary_lines("nsr", known, None) == []
