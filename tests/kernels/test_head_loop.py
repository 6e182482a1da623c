"""The chunk loop: what it waits for, and rows of the vocabulary that do not exist."""

import pytest
import torch
from linear_cases import ALL, head_case, leaves
from torch.utils._python_dispatch import TorchDispatchMode

from nsr_fast.kernels.head import Head, TokenInputs
from nsr_fast.kernels.head_loop import Gradients, policy_rows
from nsr_fast.kernels.policy_loss import PassOptions, policy_pass
from nsr_fast.objective.terms import PpoClip


class NoSynchronisation(TorchDispatchMode):
    """Fails on operators that would read a device's memory from the host after the first gather."""

    def __init__(self) -> None:
        super().__init__()
        self.gathers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "item", "is_nonzero", "equal"), name
        self.gathers += name in ("nonzero", "masked_select")
        return function(*args, **(kwargs or {}))


def test_the_chunk_loop_never_waits_for_the_device():
    case = head_case(40, 30, 4)
    case["token_weight"][::2] = 0.0
    gradients = Gradients(*(torch.empty_like(case[name]) for name in ALL))
    head = Head(case["weight"], case["bias"], backend="reference", chunk_rows=4)
    w = case["token_weight"]
    tokens = TokenInputs(case["hidden"], case["target"], w, old_logprob=w)
    with NoSynchronisation() as mode:
        policy_rows(head, tokens, gradients, PpoClip(), 0.1)
    assert mode.gathers == 1


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("terms", [None, PpoClip(0.2, 0.28)])
def test_rows_beyond_the_valid_vocabulary_do_not_exist(backend, accumulate, terms):
    case = head_case(30, 101, 7)
    case["target"] %= 90
    case["token_weight"][::4] = 0.0
    case["weight"][90:], case["bias"][90:] = torch.nan, torch.inf  # read by nothing
    results = []
    for vocab, keep in ((90, 101), (None, 90)):
        hidden, weight, bias = leaves({**case, **{n: case[n][:keep] for n in ALL[1:]}}, *ALL)
        head = Head(weight, bias, 0.8, 6.0, None, backend, chunk_rows=8, vocab=vocab)
        old = case["token_weight"] - 4.0
        tokens = TokenInputs(hidden, case["target"], case["token_weight"], old)
        options = PassOptions(entropy_coef=0.1, accumulate_into_grad=accumulate)
        result = policy_pass(head, tokens, terms, options)
        result.loss.backward()
        numbers = [result.loss, result.logprob, result.entropy, result.lse, hidden.grad]
        results.append([*numbers, weight.grad[:90], bias.grad[:90], weight.grad[90:]])
    *numbers, padding = results[0]
    assert all(torch.equal(a, b) for a, b in zip(numbers, results[1]))
    assert padding.shape == (11, 7) and bool((padding == 0).all())


def test_a_target_beyond_the_valid_vocabulary_is_named():
    case = head_case(4, 9, 3)
    case["target"] = torch.tensor([0, 6, 7, 1])
    tokens = TokenInputs(case["hidden"], case["target"], case["token_weight"])
    with pytest.raises(ValueError, match=r"target: expected values in \[0, 7\), got 7 in row 2"):
        policy_pass(Head(case["weight"], vocab=7), tokens)


def test_a_head_with_more_valid_rows_than_it_has_is_refused():
    with pytest.raises(
        ValueError, match="vocab: expected None or an integer >= 1 and <= 9, got 10"
    ):
        Head(torch.zeros(9, 3), vocab=10)
