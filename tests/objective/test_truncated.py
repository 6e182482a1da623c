"""Logprobs on kept sets against a brute force in float64, token by token, and vLLM's own sets."""

import pytest
import torch
from linear_cases import head_case, leaves

from nsr_fast.kernels.head import Head, TokenInputs
from nsr_fast.kernels.policy_loss import policy_pass
from nsr_fast.objective.terms import PpoClip
from nsr_fast.objective.truncated import KeptSets, Truncation, truncated_logprobs

CASES = [(5, 1.0), (0, 0.7), (20, 0.8), (1, 1.0), (0, 1e-6), (3, 0.999), (0, 1.0), (500, 0.9)]


def brute_force(row: list[float], top_k: int, top_p: float) -> set[int]:
    """The kept set of one row of u: top_k first, then top_p of what is left, ties kept whole."""
    order = sorted(range(len(row)), key=lambda v: -row[v])
    if 0 < top_k < len(row):
        order = [v for v in order if row[v] >= row[order[top_k - 1]]]
    u = torch.tensor(row, dtype=torch.float64)
    p = torch.softmax(u[order], 0).tolist()
    mass, kept = 0.0, []
    for v, share in zip(order, p):
        if kept and mass >= top_p:
            break
        kept.append(v)
        mass += share
    return {v for v in order if row[v] >= row[kept[-1]]}


def wide_case(tokens=23, vocab=60):
    case = head_case(tokens, vocab, 6)
    return case["hidden"].double(), case["weight"].double(), case["target"]


@pytest.mark.parametrize("top_k, top_p", CASES)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_logprobs_are_those_of_a_brute_force(top_k, top_p, temperature):
    hidden, weight, target = wide_case()
    head = Head(weight, temperature=temperature, chunk_rows=7, backend="reference")
    got = truncated_logprobs(head, hidden, target, Truncation(top_k, top_p))
    u = hidden @ weight.t() / temperature
    start = 0
    for t, row in enumerate(u):
        kept = sorted(brute_force(row.tolist(), top_k, top_p) | {int(target[t])})
        count = int(got.sets.counts[t])
        assert got.sets.columns[start : start + count].tolist() == kept
        start += count
        logp = torch.log_softmax(row[kept], 0)
        at = kept.index(int(target[t]))
        assert got.logprob[t] == pytest.approx(float(logp[at]), abs=1e-12)
        assert got.entropy[t] == pytest.approx(float(-(logp.exp() * logp).sum()), abs=1e-12)


def test_ties_stay_whole_and_the_sampled_token_is_always_kept():
    u = torch.tensor([[3.0, 1.0, 1.0, 1.0, 0.0]] * 2)
    target = torch.tensor([0, 4])
    assert Truncation(top_k=2).kept(u, target).tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    mass = float(torch.softmax(u[0], 0)[0])
    edge = Truncation(top_p=mass + 1e-6).kept(u, target[:1].expand(2))
    assert edge.tolist() == [[1, 1, 1, 1, 0]] * 2
    first = Truncation(top_p=mass - 1e-6).kept(u, target)
    assert first.tolist() == [[1, 0, 0, 0, 0], [1, 0, 0, 0, 1]]
    assert Truncation(top_k=2, top_p=0.5).kept(u, target).tolist()[0] == [1, 0, 0, 0, 0]


def check_sets(keeps, top_k, top_p):
    """keeps(u) is an engine's: our sets on continuous u, contained in ours where u has ties."""
    u = torch.randn(40, 90, generator=torch.Generator().manual_seed(2)) * 3
    for given in (u, u.round()):
        theirs = keeps(given.clone())
        ours = Truncation(top_k, top_p).kept(given, given.argmax(dim=1))
        assert not bool((theirs & ~ours).any())
        if given is u:
            assert torch.equal(theirs, ours)


@pytest.mark.vllm
@pytest.mark.parametrize("top_k, top_p", CASES[:6])
def test_sets_hold_what_vllm_keeps(top_k, top_p):
    sampler = pytest.importorskip("vllm.v1.sample.ops.topk_topp_sampler")

    def keeps(u):
        k = torch.full((len(u),), top_k or u.shape[1], dtype=torch.int32)
        p = torch.full((len(u),), top_p)
        return sampler.apply_top_k_top_p_pytorch(u, k, p).isfinite()

    check_sets(keeps, top_k, top_p)


@pytest.mark.parametrize("top_k, top_p", CASES[:6])
def test_sets_hold_what_transformers_keeps(top_k, top_p):
    from transformers import TopKLogitsWarper, TopPLogitsWarper

    def keeps(u):
        if top_k:
            u = TopKLogitsWarper(top_k)(None, u)
        return TopPLogitsWarper(top_p)(None, u).isfinite()

    check_sets(keeps, top_k, top_p)


def masked_logp(hidden, weight, sets: KeptSets, temperature):
    u = hidden @ weight.t() / temperature
    sets.mask_(slice(0, len(u)), u)
    return torch.log_softmax(u, 1)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_gradients_on_the_sets_of_an_earlier_pass(backend):
    hidden, weight, target = wide_case()
    if backend == "cpu":
        hidden, weight = hidden.float(), weight.float()
    options = {"temperature": 0.8, "backend": backend}
    found = truncated_logprobs(Head(weight, **options), hidden, target, Truncation(8, 0.9))
    w = torch.linspace(-1, 1, 23)
    w[::4] = 0.0
    moved = weight + 0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)).to(
        weight
    )
    x, m = hidden.clone().requires_grad_(), moved.clone().requires_grad_()
    sets, old = found.sets, found.logprob
    logp = masked_logp(x.double(), m.double(), sets, 0.8)
    chosen = logp.gather(1, target[:, None]).squeeze(1)
    finite = logp.masked_fill(logp.isinf(), 0.0)
    entropy = -(finite.exp() * finite * ~logp.isinf()).sum(1)
    ratio = (chosen - old).exp()
    policy = -torch.minimum(w * ratio, w * ratio.clamp(0.8, 1.2))
    loss = (policy - 0.2 * entropy)[w != 0].sum()
    expected = torch.autograd.grad(loss, [x, m])
    head = Head(m, chunk_rows=5, **options)
    tokens = TokenInputs(x, target, w, old_logprob=old, mask_logits=sets.mask_)
    got = policy_pass(head, tokens, PpoClip(entropy_coef=0.2))
    tolerance = {"rtol": 1e-9, "atol": 1e-12} if backend == "reference" else {"atol": 2e-5}
    assert torch.allclose(got.loss.double(), loss.double(), **tolerance)
    for a, b in zip(torch.autograd.grad(got.loss, [x, m]), expected):
        assert torch.allclose(a, b, **tolerance)
    again = truncated_logprobs(Head(moved, **options), hidden, target, Truncation(), sets)
    assert torch.allclose(again.logprob.double(), chosen.detach(), **tolerance)


def test_sets_survive_packing():
    hidden, weight, target = wide_case()
    head = Head(weight, backend="reference")
    whole = truncated_logprobs(head, hidden, target, Truncation(top_p=0.8))
    first, second = whole.sets.split([9, 14])
    turned = KeptSets.cat([second, first])
    order = torch.cat([torch.arange(9, 23), torch.arange(9)])
    again = truncated_logprobs(head, hidden[order], target[order], Truncation(), turned)
    assert torch.equal(again.logprob, whole.logprob[order])
    fresh = truncated_logprobs(head, hidden[order], target[order], Truncation(top_p=0.8))
    assert torch.equal(fresh.sets.columns, turned.columns)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"top_p: expected a number in \(0, 1\], got 0.0"):
        Truncation(top_p=0.0)
    with pytest.raises(ValueError, match="top_k: expected an integer >= 0, got -1"):
        Truncation(top_k=-1)
    hidden, weight, target = wide_case()
    with pytest.raises(ValueError, match="head: expected no softcap"):
        truncated_logprobs(Head(weight, softcap=3.0), hidden, target, Truncation(2))
    (x,) = leaves({"hidden": hidden}, "hidden")
    tokens = TokenInputs(x, target, torch.ones(23), mask_logits=lambda rows, logits: None)
    with pytest.raises(ValueError, match="mask_logits: expected None with a softcap"):
        policy_pass(Head(weight, softcap=3.0), tokens)
