import ast
import re
import time
from pathlib import Path

import pytest

import nsr_fast.reward
from benchmarks.verify_probes import BOMBS, INJECTIONS, boxed, rollout_probes
from nsr_fast.data.boxed import extract_boxed
from nsr_fast.errors import InputError
from nsr_fast.reward import Verdict, usable_rows, verify_math
from nsr_fast.reward.math import MathVerifier, check_golds
from nsr_fast.reward.math.answer import extract_lenient, extract_paper
from nsr_fast.reward.math.limits import complexity
from nsr_fast.reward.math.spelling import normalised
from tests.reward.math.cases import DIFFERENT, EQUAL, EQUAL_ONE_WAY


@pytest.fixture(scope="module")
def verifier():
    verifier = MathVerifier(num_workers=2)
    yield verifier
    verifier.close()


def test_equal_answers_are_correct_both_ways(verifier):
    golds, answers = zip(*(EQUAL + EQUAL_ONE_WAY + [(b, a) for a, b in EQUAL]))
    scores = verifier.score([boxed(a) for a in answers], golds)
    wrong = [
        (gold, answer, score.reason)
        for gold, answer, score in zip(golds, answers, scores)
        if score.verdict is not Verdict.CORRECT
    ]
    assert wrong == []


def test_different_answers_are_wrong_both_ways(verifier):
    golds, answers = zip(*(DIFFERENT + [(b, a) for a, b in DIFFERENT]))
    scores = verifier.score([boxed(a) for a in answers], golds)
    accepted = [
        (gold, answer, score.reason)
        for gold, answer, score in zip(golds, answers, scores)
        if score.verdict is not Verdict.WRONG
    ]
    assert accepted == []


@pytest.mark.parametrize(
    ("response", "text", "reason"),
    [
        (r"so \boxed{7}.", "7", ""),
        (r"\boxed{3}, no: \boxed{4}", "4", ""),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}", ""),
        (r"\boxed{\{1,2\}}", r"\{1,2\}", ""),
        (r"\boxed{\boxed{7}}", "{7}", ""),
        (r"\boxed{\boxed{3}, \boxed{4}}", "{3}, {4}", ""),
        (r"\fbox{7}", "7", ""),
        (r"\boxed {7}", "7", ""),
        (r"$\boxed 7$", "7", ""),
        (r"\boxed -3.14.", "-3.14", ""),
        (r"\boxed1/2", "1/2", ""),
        (r"$x=\boxed{5}$ or $x = \boxed{6}$", "5 , 6", ""),
        (r"\boxed{5} (or \boxed{6})", "6", ""),
        (r"\boxed{A} or, wait, \boxed{B}", "B", ""),
        (r"\boxed{\text{a \} b}}", r"\text{a \} b}", ""),
        (r"\boxed{5\}", None, "truncated"),
        (r"\boxed{5}. That is the \boxed notation", "5", ""),
        (r"\boxed{5}</think> So", None, "no_answer"),
        (r"<think>a</think> \boxed{1} <think>\boxed{2}</think> \boxed{3}", "3", ""),
        (r"\boxed{} then \boxed{7}, format \boxed{ }", "7", ""),
        (r"\boxed{3} or \boxed{4}", "3 , 4", ""),
        (r"$\boxed{3}$ and $\boxed{4}$", "3 , 4", ""),
        (r"\boxed{3}, wait, \boxed{4}", "4", ""),
        (r"<think>\boxed{3}</think> \boxed{4}", "4", ""),
        (r"<think>\boxed{3}</think> done", None, "no_answer"),
        (r"\boxed{12", None, "truncated"),
        (r"\boxed{7}, so \boxed{12", None, "truncated"),
        ("", None, "no_answer"),
        ("the answer is 8", None, "no_answer"),
        (r"\boxed{}", None, "no_answer"),
        ("\x00\x07\\boxed{7}", "7", ""),
        (r"} stray { \boxed{7} {", "7", ""),
    ],
)
def test_extraction_takes_the_last_box(response, text, reason):
    extraction = extract_boxed(response)
    assert (extraction.text, extraction.reason) == (text, reason)


@pytest.mark.parametrize(
    "response",
    [
        r"\boxed{" * 100_000,
        "{" * 500_000 + r"\boxed{1}",
        "\\boxed{1} or " * 50_000,
        "\\boxed{1}" + "\\" * 10**6,
    ],
    ids=["unclosed", "braces", "joined", "backslashes"],
)
def test_extraction_is_linear(response):
    start = time.process_time()
    extract_boxed(response)
    assert time.process_time() - start < 3.0


def test_lenient_and_paper_rules():
    assert extract_lenient("So\nthe answer is **8**").text == "8"
    assert extract_lenient("The answer is 8.\n").text == "8."
    assert extract_lenient("first 3\nno statement").text is None
    assert extract_paper("we get 12 and 15").text == "15"
    assert extract_paper(r"\boxed{12").text == "12"
    assert extract_paper("The answer is x+1\nmore").text == "x+1"


def test_lists_of_accepted_answers_and_numbers():
    assert verify_math(r"\boxed{0.5}", ["3", r"\frac12"]) is Verdict.CORRECT
    assert verify_math(r"\boxed{0.5}", 0.5) is Verdict.CORRECT
    assert verify_math(r"\boxed{0.5}", 1) is Verdict.WRONG
    assert verify_math(r"\boxed{5}", r"$\boxed{5}$") is Verdict.CORRECT


@pytest.mark.parametrize("answer", ["", " ", None, [], True, "$$"])
def test_an_unusable_gold_is_unscored(answer):
    assert verify_math(r"\boxed{5}", answer) is Verdict.UNSCORED


@pytest.mark.parametrize(
    ("answer", "gold", "verdict", "reason"),
    [
        (r"\left\left", "5", "wrong", "no_answer"),
        (r"\phantom{0}", "5", "wrong", "no_answer"),
        ("|", "|x|", "wrong", "unparsed"),
        ("5", "5?", "unscored", "bad_gold"),
        (r"x\to 5", "5", "wrong", "unparsed"),
        ("((((((((((((((2x+1))))))))))))))", "1+2x", "correct", "equal"),
    ],
)
def test_reasons_of_unreadable_answers_and_golds(verifier, answer, gold, verdict, reason):
    score = verifier.score([boxed(answer)], [gold])[0]
    assert (score.verdict.value, score.reason) == (verdict, reason)


def test_injections_create_no_file_and_are_wrong(verifier, tmp_path):
    path = tmp_path / "made"
    answers = [text.format(path=path) for text in INJECTIONS]
    for gold in ("5", r"\pi", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"x^2+1", "1,2"):
        scores = verifier.score([boxed(a) for a in answers], [gold] * len(answers))
        assert {s.verdict for s in scores} <= {Verdict.WRONG, Verdict.UNSCORED}
    assert list(tmp_path.iterdir()) == []


def test_bombs_are_refused_before_any_evaluation(verifier):
    for bomb in BOMBS:
        assert len(bomb) > 2000 or complexity(normalised(bomb)) is not None, bomb
    scores = verifier.score([boxed(b) for b in BOMBS], ["5"] * len(BOMBS))
    assert {s.verdict for s in scores} == {Verdict.WRONG}
    assert {s.reason for s in scores} == {"too_complex"}


@pytest.mark.parametrize(
    "text", [r"2^{100}", r"2^{2^{5}}+1", r"e^{-x^{2}}", "100!", r"\frac{10!}{5!5!}", "10^{100}"]
)
def test_ordinary_powers_and_factorials_are_computed(text):
    assert complexity(normalised(text)) is None


def test_correct_variants_of_rollouts_are_correct(verifier):
    golds = [gold for gold, _ in EQUAL if "^{3^" not in gold][:24]
    probes = [p for p in rollout_probes(golds, 8) if p.is_correct is not None]
    scores = verifier.score([p.response for p in probes], [p.gold for p in probes])
    off = [p for p, s in zip(probes, scores) if p.is_correct != (s.verdict is Verdict.CORRECT)]
    assert off == []


def test_a_round_with_bombs_kills_no_worker(verifier):
    golds = [gold for gold, _ in EQUAL if "^{3^" not in gold]
    probes = rollout_probes(golds, 4, seed=1)
    before = verifier.statistics()["verify/kills"]
    start = time.process_time()
    scores = verifier.score([p.response for p in probes], [p.gold for p in probes])
    assert time.process_time() - start < 10
    known = [(p, s) for p, s in zip(probes, scores) if p.is_correct is not None]
    assert [p for p, s in known if p.is_correct != (s.verdict is Verdict.CORRECT)] == []
    assert len(probes) > 400 and sum(p.is_correct is False for p in probes) >= 2
    assert verifier.statistics()["verify/kills"] == before


def test_golds_that_do_not_verify_are_listed_or_dropped():
    rows = [
        {"id": str(i), "answer": a} for i, a in enumerate(["2", "", r"\frac{1}{2}", [], ["3", ""]])
    ]
    assert [row["id"] for row in check_golds(rows)] == ["1", "3", "4"]
    with pytest.raises(InputError, match=r"3 of 5 answers .* rows '1', '3', '4'; .*drop_bad_golds"):
        usable_rows(rows)
    assert [row["id"] for row in usable_rows(rows, drop_bad_golds=True)] == ["0", "2"]
    with pytest.raises(InputError, match="no row is left"):
        usable_rows(rows[1:2], drop_bad_golds=True)


def test_no_module_of_rewards_or_data_executes_text():
    """No eval, exec, sympify, parse_expr, lambdify or compile of text in the sources."""
    forbidden = {"eval", "exec", "sympify", "parse_expr", "lambdify", "compile", "__import__", "S"}
    folder = Path(nsr_fast.reward.__file__).parents[1]
    files = [p for area in ("reward", "data") for p in (folder / area).rglob("*.py")]
    files.remove(folder / "reward" / "code" / "inside_child.py")  # runs programs, in the sandbox
    assert len(files) > 25
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            name = getattr(node, "attr", getattr(node, "id", None))
            is_regex = isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "re"
            assert name not in forbidden or is_regex, f"{file.name}: {name}"


def test_normalised_is_idempotent():
    for pair in EQUAL + DIFFERENT:
        for text in pair:
            once = normalised(text)
            assert normalised(once) == once or re.search(r"\\text", once), text
