"""What the pass of linear_policy_loss tells about each token, beyond the loss.

From p_y, sum p^2, sum p^2 log p, the entropy H and c = dloss/dlogprob, for one unit of plain
gradient descent on this token's logits x (tau = temperature; softcap and entropy term left out):
    grad_norm            |c| sqrt(1 - 2 p_y + sum p^2) / tau                 = |dloss/dx|_2
    entropy_change       c (p_y (log p_y + H) - sum p^2 log p - H sum p^2) / tau^2
    moved_probability    c p_y (1 - 2 p_y + sum p^2) / tau^2       > 0: taken from the sampled token
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class PolicyStats:
    """Per-token numbers [T], 0 for rows that were not computed; nothing here is differentiable.

    greedy and is_clipped are 0.0 or 1.0; loss, c and e are the terms the surrogate gave the row.
    """

    logprob: Tensor
    entropy: Tensor
    token_weight: Tensor
    sum_p2: Tensor
    sum_p2_logp: Tensor
    greedy: Tensor
    loss: Tensor
    c: Tensor
    e: Tensor
    is_clipped: Tensor
    temperature: float

    @property
    def grad_norm(self) -> Tensor:
        return self.c.abs() * self._spread().sqrt() / self.temperature

    @property
    def entropy_change(self) -> Tensor:
        p, entropy = self.logprob.exp(), self.entropy
        own = torch.where(p == 0, torch.zeros_like(p), p * (self.logprob + entropy))
        rest = self.sum_p2_logp + entropy * self.sum_p2
        return self.c * (own - rest) / self.temperature**2

    @property
    def moved_probability(self) -> Tensor:
        return self.c * self.logprob.exp() * self._spread() / self.temperature**2

    def summary(self) -> dict[str, float]:
        """Means over active tokens and over those of either sign of the weight; waits for the GPU.

        Keys: NAME, NAME_positive, NAME_negative for entropy, logprob, greedy, is_clipped,
        grad_norm, entropy_change, moved_probability; num_tokens likewise. A mean over no token is
        left out.
        """
        weight = self.token_weight
        masks = {"": weight != 0, "_positive": weight > 0, "_negative": weight < 0}
        names = ["entropy", "logprob", "greedy", "is_clipped"]
        names += ["grad_norm", "entropy_change", "moved_probability"]
        values = torch.stack([getattr(self, name).double() for name in names])
        result = {}
        for suffix, mask in masks.items():
            count = int(mask.sum())
            result[f"num_tokens{suffix}"] = float(count)
            if count:
                means = (values[:, mask].sum(dim=1) / count).tolist()
                result |= {f"{name}{suffix}": mean for name, mean in zip(names, means)}
        return result

    def _spread(self) -> Tensor:
        spread = (1.0 - 2.0 * self.logprob.exp() + self.sum_p2).clamp(min=0.0)
        return torch.where(self.token_weight == 0, torch.zeros_like(spread), spread)
