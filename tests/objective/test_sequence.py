"""Preparations and the surrogates of sequence ratios against autograd on whole sequences."""

import math

import pytest
import torch
from linear_cases import head_case, leaves
from sequence_cases import LENGTHS, sequences

from nsr_fast.kernels.policy_loss import linear_policy_loss
from nsr_fast.kernels.tokens import TokenRows
from nsr_fast.objective.denominator import sequence_mean
from nsr_fast.objective.preparation import Sequences, prepare
from nsr_fast.objective.sequence import (
    ClipCov,
    GmpoRatio,
    KlCovMarks,
    SequenceRatio,
    SpuriousTokens,
    TopEntropy,
    ZeroVariance,
    quantile,
)
from nsr_fast.objective.terms import Gmpo, Gspo, Topr


def gspo(logprob, old, w, low=0.9, high=1.2):
    ratio = (logprob - old).mean().exp()
    return -torch.minimum(ratio * w, ratio.clamp(low, high) * w)


def gmpo(logprob, old, w):
    gap = logprob - old
    sign = w.sign()
    least = sign * torch.minimum(sign * gap, sign * gap.clamp(-0.3, 0.2))
    return -w * least.mean().exp()


def topr(logprob, old, w):
    ratio = (logprob - old).sum().exp().clamp(0, 1).detach()
    return -w * (ratio if w < 0 else 1.0) * logprob.mean()


CASES = [
    (Gspo(0.1, 0.2), SequenceRatio("mean"), gspo),
    (Gmpo(0.3, 0.2), GmpoRatio(0.3, 0.2), gmpo),
    (Topr(), SequenceRatio("product"), topr),
]


@pytest.mark.parametrize("surrogate, preparation, formula", CASES)
@pytest.mark.parametrize("seed", range(4))
def test_slopes_are_the_gradient_of_the_loss_of_sequences(surrogate, preparation, formula, seed):
    rows = sequences(seed=seed)
    leaf = [x.clone().requires_grad_() for x in rows.logprob]
    losses = [formula(x, o, w[0]) for x, o, w in zip(leaf, rows.old_logprob, rows.weight)]
    expected = torch.autograd.grad(sum(losses) / len(losses), leaf)
    sides = prepare([preparation], rows)
    scales = sequence_mean(LENGTHS)
    scaled = torch.cat([w * scale for w, scale in zip(rows.weight, scales)])
    sides = {name: torch.cat(values) for name, values in sides.items()}
    at, old = rows.flat("logprob"), rows.flat("old_logprob")
    terms = surrogate(TokenRows(at, at, scaled, old, **sides))
    assert torch.allclose(terms.c, torch.cat(expected), rtol=1e-12, atol=1e-15)
    assert torch.allclose(terms.loss.sum(), sum(losses) / len(losses), rtol=1e-12)
    assert bool((terms.c[terms.is_clipped] == 0).all()) or isinstance(surrogate, Topr)


def test_some_sequences_of_those_cases_are_clipped():
    for surrogate, preparation, _ in CASES:
        rows = sequences(seed=1)
        sides = {k: torch.cat(v) for k, v in prepare([preparation], rows).items()}
        at = rows.flat("logprob")
        terms = surrogate(TokenRows(at, at, rows.flat("weight"), rows.flat("old_logprob"), **sides))
        assert 0 < int(terms.is_clipped.sum()) < len(at)


@pytest.mark.parametrize("packs", [[(0, 1, 2)], [(2,), (1, 0)], [(1,), (0,), (2,)]])
def test_gspo_through_the_head_in_any_packing(packs):
    lengths = (4, 6, 3)
    case = head_case(sum(lengths), 30, 5)
    hidden, weight = leaves(case, "hidden", "weight", dtype=torch.float64)
    logp = torch.log_softmax(hidden @ weight.t(), 1)
    chosen = logp.gather(1, case["target"][:, None]).squeeze(1).split(lengths)
    noise = sequences(lengths, seed=5)
    old = [x.detach() - 0.1 * y for x, y in zip(chosen, noise.entropy)]
    losses = [gspo(x, o, w[0]) for x, o, w in zip(chosen, old, noise.weight)]
    expected = torch.autograd.grad(sum(losses) / 3, [hidden, weight])

    rows = Sequences(noise.weight, [x.detach() for x in chosen], old_logprob=old)
    ratio = prepare([SequenceRatio("mean")], rows)["sequence_ratio"]
    scales = sequence_mean(lengths)
    starts = (0, 4, 10)
    total = 0.0
    for pack in packs:
        places = torch.cat([torch.arange(starts[i], starts[i] + lengths[i]) for i in pack])
        total = total + (
            linear_policy_loss(
                hidden[places],
                weight,
                case["target"][places],
                torch.cat([noise.weight[i] * scales[i] for i in pack]),
                surrogate=Gspo(0.1, 0.2),
                sequence_ratio=torch.cat([ratio[i] for i in pack]),
                chunk_rows=4,
                backend="reference",
            ).loss
        )
    for a, b in zip(torch.autograd.grad(total, [hidden, weight]), expected):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-14)


def test_extreme_sequences_keep_finite_ratios():
    zeros = [torch.zeros(3), torch.zeros(3)]
    rows = Sequences(zeros, [torch.full((3,), -50.0), torch.zeros(3)], old_logprob=zeros[:1] * 2)
    far = Sequences(zeros, zeros, old_logprob=[torch.full((3,), -50.0)] * 2)
    assert prepare([SequenceRatio("product")], rows)["sequence_ratio"][0][0] == math.exp(-20)
    for kind in ("mean", "product"):
        made = prepare([SequenceRatio(kind)], far)["sequence_ratio"]
        assert torch.allclose(torch.cat(made), torch.tensor(math.exp(20)))


def covariance(rows):
    w, x = rows.flat("weight"), rows.flat("logprob")
    return (w - w.mean()) * (x - x.mean())


def test_clip_cov_drops_tokens_between_the_bounds_that_ppo_would_train():
    rows = sequences((50, 70), seed=3, spread=0.2)
    cov, w = covariance(rows), rows.flat("weight")
    ratio = (rows.flat("logprob") - rows.flat("old_logprob")).exp()
    is_free = torch.where(w > 0, ratio <= 1.2, ratio >= 0.8)
    qualify = (cov > 0.1) & (cov < 1.0) & is_free
    assert 5 < int(qualify.sum()) < int(((cov > 0.1) & (cov < 1.0)).sum())
    made = torch.cat(ClipCov(share=0.99, low=0.1, high=1.0)(rows)["factor"])
    assert torch.equal(made == 0, qualify)
    drawn = []
    for _ in range(2):
        seeded = sequences((50, 70), seed=3, spread=0.2, generator=torch.Generator().manual_seed(7))
        drawn.append(torch.cat(ClipCov(share=0.03, low=0.1, high=1.0)(seeded)["factor"]))
    assert torch.equal(*drawn) and int((drawn[0] == 0).sum()) == 3
    assert bool(qualify[drawn[0] == 0].all())
    assert int((torch.cat(ClipCov(low=0.1, high=1.0)(rows)["factor"]) == 0).sum()) == 1


def test_kl_cov_marks_the_largest_covariances():
    rows = sequences((50, 70))
    mark = torch.cat(KlCovMarks(0.1)(rows)["mark"])
    cov = covariance(rows)
    assert int(mark.sum()) == 12 and cov[mark == 1].min() > cov[mark == 0].max()
    assert int(torch.cat(KlCovMarks()(rows)["mark"]).sum()) == 1
    silent = Sequences([x * 0 for x in rows.weight], rows.logprob)
    assert int(torch.cat(KlCovMarks()(silent)["mark"]).sum()) == 0
    partly = Sequences(
        [torch.tensor([-1.0, -1, -1, 1, 0])], [torch.tensor([-2.0, -2.0, -2.0, -2.5, 0.0])]
    )
    mark = KlCovMarks()(partly)["mark"][0]  # the last has the largest product and no weight
    assert int(mark.sum()) == int(mark[:3].sum()) == 1


def test_top_entropy_keeps_a_share_of_the_minibatch():
    entropy = [torch.arange(4.0), torch.arange(4.0, 10.0)]
    rows = Sequences([torch.ones(4), torch.ones(6)], entropy=entropy)
    assert torch.cat(TopEntropy(0.2)(rows)["factor"]).tolist() == [0.0] * 8 + [1.0] * 2
    rows = Sequences([torch.ones(4), torch.tensor([1.0, 1, 1, 1, 0, 0])], entropy=entropy)
    kept = torch.cat(TopEntropy(0.25)(rows)["factor"])  # of 8 trained tokens, 0 to 7
    assert kept.tolist() == [0.0] * 6 + [1.0] * 4


@pytest.mark.parametrize("share", [0.001, 0.2, 0.5, 0.77])
@pytest.mark.parametrize("count", [1, 2, 7, 1000])
def test_quantile_is_torch_s(share, count):
    values = torch.randn(count, generator=torch.Generator().manual_seed(count)).double()
    assert torch.allclose(quantile(values, share), torch.quantile(values, share))
    assert bool(quantile(values[:0], share).isnan())


def test_spurious_tokens_by_hand():
    logprob = [torch.tensor([0.001, 0.001, 0.5, 0.001]).log()] * 2
    entropy = [torch.tensor([0.1, 2.0, 0.1, 1.0])] * 2
    rows = Sequences([torch.ones(4), -torch.ones(4)], logprob, entropy)
    wanted = {"positive": ([0, 1, 1, 1], [1] * 4), "negative": ([1] * 4, [0, 1, 1, 1])}
    for on, want in wanted.items():
        made = SpuriousTokens(0.01, 0.6, on)(rows)["factor"]
        assert [x.tolist() for x in made] == [list(map(float, x)) for x in want]
    both = SpuriousTokens(0.01, 0.6, "both")(rows)["factor"]
    assert [x.tolist() for x in both] == [[0.0, 1.0, 1.0, 1.0]] * 2


def test_zero_variance_by_hand():
    entropy = [torch.tensor([0.5, 2.0]), torch.tensor([0.5, 2.0])]
    share = [torch.tensor([1.0, 1.0]), torch.tensor([1.0, 0.0])]
    rows = Sequences([torch.ones(2), -torch.ones(2)], entropy=entropy, entropy_share=share)
    made = ZeroVariance(0.1)(rows)["factor"]
    assert torch.allclose(made[0], torch.tensor([0.05, 0.2]))
    assert torch.allclose(made[1], torch.tensor([0.15, 1.0]))
