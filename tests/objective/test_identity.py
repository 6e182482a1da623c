"""Expected gradients of weight rules on policies small enough to enumerate, in float64.

The real loss (linear_policy_loss) runs over every sequence, each weighted by its probability.
"""

from itertools import product
from math import comb

import numpy as np
import pytest
import torch

from nsr_fast.kernels.policy_loss import linear_policy_loss
from nsr_fast.objective.group_relative import BatchNormalized, GroupRelative, LeaveOneOut, MaxRL
from nsr_fast.objective.pass_k import Pkpo
from nsr_fast.objective.weights import Now, nsr, psr, reinforce, w_reinforce
from nsr_fast.types import Group, Prompt, Rollout

PROMPT = Prompt("a", "", (9,), None, {})
VOCAB, STOP, LONGEST, WIDTH = 4, 0, 3, 5


def sequences():
    """Every completion: ended by the stop token, or by the maximum length."""
    for length in range(1, LONGEST + 1):
        for body in product(range(1, VOCAB), repeat=length - 1):
            yield (*body, STOP)
            if length == LONGEST:
                yield from ((*body, token) for token in range(1, VOCAB))


class Toy:
    """One hidden state a prefix under one linear head; correct: the token sum is even."""

    def __init__(self):
        g = torch.Generator().manual_seed(7)
        self.ids = list(sequences())
        prefixes = sorted({ids[:t] for ids in self.ids for t in range(len(ids))})
        self.state = {prefix: i for i, prefix in enumerate(prefixes)}
        made = {"generator": g, "dtype": torch.float64}
        self.hidden = torch.randn(len(prefixes), WIDTH, **made).requires_grad_()
        self.head = torch.randn(VOCAB, WIDTH, **made).requires_grad_()
        logprobs = torch.log_softmax((self.hidden @ self.head.t()).detach(), 1)
        self.rollouts = []
        for ids in self.ids:
            own = [logprobs[self.state[ids[:t]], ids[t]].item() for t in range(len(ids))]
            made = Rollout(PROMPT, ids, tuple(own), "", "stop", is_correct=sum(ids) % 2 == 0)
            made.reward = 1.0 if made.is_correct else -1.0
            self.rollouts.append(made)
        self.chance = np.exp([sum(r.sampler_logprob) for r in self.rollouts])

    def expected_gradient(self, rule):
        """Of the sequence-sum loss: sum over sequences of chance * weight * -grad logprob."""
        rule([Group(PROMPT, tuple(self.rollouts))], Now())
        rows, target, weight = [], [], []
        for one, chance in zip(self.rollouts, self.chance):
            each = (
                one.weight if isinstance(one.weight, tuple) else (one.weight,) * len(one.token_ids)
            )
            rows += [self.state[one.token_ids[:t]] for t in range(len(one.token_ids))]
            target += one.token_ids
            weight += [chance * w for w in each]
        token_weight = torch.tensor(weight, dtype=torch.float64)
        hidden = self.hidden[torch.tensor(rows)]
        loss = linear_policy_loss(hidden, self.head, torch.tensor(target), token_weight).loss
        return torch.cat([x.flatten() for x in torch.autograd.grad(loss, [self.hidden, self.head])])


@pytest.fixture(scope="module")
def toy():
    return Toy()


def test_the_toy_policy_is_whole(toy):
    assert toy.chance.sum() == pytest.approx(1.0, abs=1e-14)
    assert len(toy.rollouts) == 1 + 3 + 9 * 4
    assert 0.1 < sum(c for r, c in zip(toy.rollouts, toy.chance) if r.is_correct) < 0.9


@pytest.mark.parametrize(
    ("rule", "ratio"),
    [(nsr(), 1.0), (reinforce(), 2.0), (w_reinforce(0.1), 1.1), (w_reinforce(0.7), 1.7)],
)
def test_sign_rules_have_proportional_expected_gradients(toy, rule, ratio):
    """E[grad log p] = 0, so a constant added to every weight changes nothing in expectation."""
    base = toy.expected_gradient(psr())
    assert base.abs().max() > 0.01
    assert (toy.expected_gradient(rule) - ratio * base).abs().max() < 1e-12


P = np.array([0.15, 0.2, 0.65])  # one token; 0 and 1 are right
RIGHT = np.array([True, True, False])


def slope(n, rule):
    """Expected mean over n rollouts of weight * grad log p with respect to the logits."""
    total = np.zeros(len(P))
    for tokens in product(range(len(P)), repeat=n):
        group = Group(
            PROMPT,
            tuple(
                Rollout(PROMPT, (t,), (0.0,), "", "stop", float(RIGHT[t]), bool(RIGHT[t]))
                for t in tokens
            ),
        )
        rule([group], Now())
        scores = [np.eye(len(P))[t] - P for t in tokens]
        mean = sum(r.weight * s for r, s in zip(group.rollouts, scores)) / n
        total += np.prod(P[list(tokens)]) * mean
    return total


def pass_at_k_slope(k):
    """d/dz of 1 - (1 - s)^k, s the chance of a right token; ds/dz_v = p_v (right_v - s)."""
    s = P[RIGHT].sum()
    return k * (1 - s) ** (k - 1) * P * (RIGHT - s)


def test_rloo_is_unbiased_and_dr_grpo_is_short_by_one_over_n():
    for n in (2, 3, 4):
        true = pass_at_k_slope(1)
        assert slope(n, LeaveOneOut()) == pytest.approx(true, abs=1e-14)
        assert slope(n, GroupRelative(std=False)) == pytest.approx(true * (n - 1) / n, abs=1e-14)


@pytest.mark.parametrize("baseline", ["none", "loo", "loo_minus_one"])
@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_pkpo_is_the_unbiased_gradient_of_pass_at_k(k, baseline):
    assert slope(4, Pkpo(k, baseline)) == pytest.approx(pass_at_k_slope(k), abs=1e-13)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_maxrl_is_the_gradient_of_a_truncated_log_likelihood(n):
    expected = sum(pass_at_k_slope(k) / k for k in range(1, n))
    assert slope(n, MaxRL()) == pytest.approx(expected, abs=1e-14)


def test_normalising_changes_the_size_for_one_problem_not_the_direction():
    """So dividing by the deviation moves weight between problems."""
    true = pass_at_k_slope(1)
    for rule in (GroupRelative(), BatchNormalized()):
        found = slope(4, rule)
        cosine = found @ true / np.linalg.norm(found) / np.linalg.norm(true)
        assert cosine == pytest.approx(1.0, abs=1e-9) and found @ true > 0


def test_binomials_of_the_closed_forms():
    """C(n, k) as the number of subsets, at a size where floats are no longer exact."""
    assert Pkpo(32).advantages([1.0] + [0.0] * 255)[0] == pytest.approx(
        256 * comb(255, 31) / comb(256, 32), rel=1e-12
    )
