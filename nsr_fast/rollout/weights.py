"""How an engine gets the policy's weights: one memory for both, or a checked copy after updates.

Sharing needs tensors of one layout on both sides (shared_weights.py). Where the engine quantises or
splits them in its own way or the family's layout is unknown, vLLM's own loader takes a copy after
each update, in process.
"""

from collections.abc import Callable

import torch
from torch import nn

from nsr_fast.errors import EngineFailure, GuardStop
from nsr_fast.rollout.shared_weights import (
    LayoutUnknown,
    check_equal,
    check_shared,
    find_views,
    fingerprint,
    is_empty,
    share_weights,
)

_KNOWN_METHODS = ("SharedLinear", "SharedEmbedding")  # rollout/vllm_linear.py
_KNOWN_METHODS += ("UnquantizedLinearMethod", "UnquantizedEmbeddingMethod")


class EngineWeights:
    """The link between one vLLM engine and the policy's module.

    note   in words, for the user: shared, or copied and why
    """

    def __init__(self, llm, policy: nn.Module, *, share: bool):
        self._llm, self._policy = llm, policy
        self._bindings = self._views = None
        reason = self._apply(obstacle)
        if reason is None:
            try:
                self._link(share)
            except LayoutUnknown as unknown:
                reason = str(unknown)
        if reason is not None and is_empty(policy):
            raise EngineFailure(
                f"engine: it cannot share the policy's weights ({reason}); set share_weights: "
                "false, then it takes a copy after each update"
            )
        self._seen = None if reason is None else self._fingerprints()
        if reason is None and share:
            self.note = "weights: the engine computes with the policy's own tensors"
        else:
            reason = reason or "share_weights is off"
            self.note = f"weights: copied into the engine after each update ({reason})"

    def check(self) -> None:
        """After an update: the engine holds the policy's weights, or GuardStop."""
        if self._bindings is not None:
            check_shared(self._bindings)
        elif self._views is not None:
            copy_weights(self._views, self._policy)
        else:
            self._reload()

    def _link(self, share: bool) -> None:
        if share:
            self._bindings = self._apply(lambda model: share_weights(model, self._policy))
            return
        self._views = self._apply(lambda model: find_views(model, self._policy))
        copy_weights(self._views, self._policy)

    def _reload(self) -> None:
        """Through vLLM's loader. Its tensors have another form than the policy's, so the proof is
        that they changed exactly when the policy's did; the drift of logprobs is measured too."""
        weights = ((name, p.detach()) for name, p in self._policy.named_parameters())
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
        self._apply(_repack_head)
        before, self._seen = self._seen, self._fingerprints()
        if [a == b for a, b in zip(before, self._seen)] in ([True, False], [False, True]):
            raise GuardStop(
                "stale weights: policy and engine did not change together in this update; "
                "rollouts would come from other weights, so the run stops"
            )

    def _fingerprints(self) -> list[dict[str, int]]:
        """Of the policy and of the engine."""
        engine = self._apply(lambda model: fingerprint(dict(model.named_parameters())))
        return [fingerprint(dict(self._policy.named_parameters())), engine]

    def _apply(self, function: Callable):
        return self._llm.apply_model(function)[0]


def obstacle(engine_model: nn.Module) -> str | None:
    """Why the two cannot share memory whatever their names and shapes, or None."""
    for name, module in engine_model.named_modules():
        method = type(getattr(module, "quant_method", None)).__name__
        if method not in (*_KNOWN_METHODS, "NoneType") and hasattr(module, "weight"):
            return f"the engine's {name} is quantised ({method})"
        if getattr(module, "tp_size", 1) > 1:
            return f"tensor parallelism splits the engine's {name}"
    return None


@torch.no_grad()
def copy_weights(views: dict[str, torch.Tensor], policy: nn.Module) -> None:
    """Write the policy's values into the engine's own tensors and prove that they arrived."""
    for name, parameter in policy.named_parameters():
        views[name].copy_(parameter)
    check_equal(views, policy)


def _repack_head(engine_model: nn.Module) -> None:
    """vLLM's CPU loader leaves the packed copy of a tied head as it was: pack it again."""
    head = getattr(engine_model, "lm_head", None)
    if head is not None and hasattr(head, "cpu_linear"):
        head.quant_method.process_weights_after_loading(head)
