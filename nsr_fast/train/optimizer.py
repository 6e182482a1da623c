"""AdamW on the policy's parameters, in place, so that the write reaches the engine's memory.

Parameters below float32 get a float32 master copy: at a learning rate of 1e-6 a bfloat16 update
would be rounded away. The master is stepped and rounded into the shared tensor.
"""

from collections.abc import Iterable

import torch
from torch import nn


class PolicyOptimizer:
    """AdamW (betas 0.9, 0.999), gradient clipping, constant learning rate after linear warm-up."""

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        learning_rate: float,
        weight_decay: float,
        max_grad_norm: float,
        warmup_steps: int = 0,
    ):
        self._parameters = [p for p in parameters if p.requires_grad]
        self._masters = [
            p if p.dtype == torch.float32 else nn.Parameter(p.detach().float())
            for p in self._parameters
        ]
        self._adamw = torch.optim.AdamW(
            self._masters, lr=learning_rate, betas=(0.9, 0.999), weight_decay=weight_decay
        )
        self._learning_rate, self._warmup_steps = learning_rate, warmup_steps
        self._max_grad_norm = max_grad_norm
        self.num_steps = 0

    @property
    def learning_rate(self) -> float:
        """Of the step to come."""
        return self._learning_rate * min(1.0, (self.num_steps + 1) / max(1, self._warmup_steps))

    def step(self) -> float:
        """Clip, update in place, clear the gradients; returns the gradient norm before clipping.

        A non-finite gradient changes nothing and is returned as it is.
        """
        for parameter, master in zip(self._parameters, self._masters, strict=True):
            if master is not parameter and parameter.grad is not None:
                master.grad, parameter.grad = parameter.grad.float(), None
        grad_norm = float(nn.utils.clip_grad_norm_(self._masters, self._max_grad_norm))
        if torch.isfinite(torch.tensor(grad_norm)):
            for group in self._adamw.param_groups:
                group["lr"] = self.learning_rate
            self._adamw.step()
            self._write_back()
            self.num_steps += 1
        self._adamw.zero_grad(set_to_none=True)
        return grad_norm

    def state_dict(self) -> dict:
        """AdamW's state, the number of steps, and the masters where there are any."""
        masters = [
            m.detach() for m, p in zip(self._masters, self._parameters, strict=True) if m is not p
        ]
        return {"adamw": self._adamw.state_dict(), "steps": self.num_steps, "masters": masters}

    @torch.no_grad()
    def _write_back(self) -> None:
        for parameter, master in zip(self._parameters, self._masters, strict=True):
            if master is not parameter:
                parameter.copy_(master)
