"""The products of the head at the edges of their blocks."""

import torch
from linear_cases import head_case

from nsr_fast.kernels import matmul


def test_the_batched_product_meets_every_edge_of_its_blocks(monkeypatch):
    monkeypatch.setattr(matmul, "_COLUMNS", 16)
    step = 16 * max(4, torch.get_num_threads())
    for vocab in (step - 1, step, step + 1, 3 * step, 3 * step + 17):
        case = head_case(9, vocab, 5)
        hidden, weight = case["hidden"], case["weight"]
        wide = torch.full((9, vocab + 3), torch.nan)
        matmul.logits_into(wide[:, :vocab], hidden, weight, None)
        assert torch.allclose(wide[:, :vocab], hidden @ weight.t(), atol=1e-5)
        assert bool(wide[:, vocab:].isnan().all())
