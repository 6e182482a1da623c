"""kernels/rows_reference.py, the definition of the row operations, against autograd in float64."""

import pytest
import torch
from row_cases import reference


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("has_entropy_term", [False, True])
def test_row_operations_are_the_derivative_of_logprob_and_entropy(softcap, has_entropy_term):
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 17, generator=g, dtype=torch.float64) * 3
    target = torch.randint(0, 17, (5,), generator=g)
    c, e = torch.randn(2, 5, generator=g, dtype=torch.float64)
    e = e if has_entropy_term else None
    x = logits.clone().requires_grad_()
    z = x if softcap is None else softcap * torch.tanh(x / softcap)
    logp = torch.log_softmax(z / 0.7, dim=1)
    logprob = logp.gather(1, target[:, None]).squeeze(1)
    entropy = -(logp.exp() * logp).sum(dim=1)
    ((c * logprob).sum() + (0 if e is None else (e * entropy).sum())).backward()
    options = {"temperature": 0.7, "softcap": softcap}
    fused, split = logits.clone(), logits.clone()
    stats = reference(fused, target, c, e, **options)
    reference(split, target, c, e, saved=(stats.lse, stats.entropy), **options)
    assert torch.allclose(fused, x.grad) and torch.allclose(split, x.grad)
    assert torch.allclose(stats.logprob, logprob) and torch.allclose(stats.entropy, entropy)
    assert torch.allclose(stats.lse, (z / 0.7).logsumexp(dim=1))
    assert torch.allclose(stats.sum_p2, logp.exp().square().sum(dim=1))
    assert torch.allclose(stats.sum_p2_logp, (logp.exp().square() * logp).sum(dim=1))


def test_greedy_counts_ties_and_never_a_masked_target():
    logits = torch.tensor([[1.0, 3.0, 3.0], [1.0, 3.0, 2.0], [-torch.inf] * 3])
    stats = reference(logits, torch.tensor([2, 2, 0]))
    assert stats.greedy.tolist() == [True, False, False]


def test_a_row_of_only_minus_infinity_is_defined():
    logits = torch.full((1, 4), -torch.inf)
    stats = reference(logits, torch.tensor([1]), torch.ones(1), torch.ones(1))
    assert stats.logprob.item() == stats.lse.item() == -torch.inf
    assert stats.entropy.item() == stats.sum_p2.item() == stats.sum_p2_logp.item() == 0.0
    assert logits.tolist() == [[0.0, 1.0, 0.0, 0.0]]


def test_rows_without_coefficients_become_zero_even_if_nan():
    logits = torch.tensor([[torch.nan, 1.0], [2.0, 1.0]])
    reference(logits, torch.tensor([0, 0]), torch.tensor([0.0, 1.0]), None)
    assert logits[0].tolist() == [0.0, 0.0] and logits[1, 0] > 0
