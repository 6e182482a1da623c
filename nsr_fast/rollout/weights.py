"""How an engine gets the policy's weights: one memory for both, or a checked copy after updates.

Sharing needs plain matrices on both sides (shared_weights.py). Where the engine quantises or splits
them, where LoRA wraps the policy's layers or the family's layout is unknown, vLLM's own loader
takes a copy after each update, in process.
"""

from collections.abc import Callable, Iterator

import torch
from torch import nn

from nsr_fast.errors import GuardStop
from nsr_fast.rollout.shared_weights import (
    LayoutUnknown,
    check_equal,
    check_shared,
    find_layout,
    fingerprint,
    share_weights,
)

_PLAIN_METHODS = ("UnquantizedLinearMethod", "UnquantizedEmbeddingMethod")


class EngineWeights:
    """The link between one vLLM engine and the policy's module.

    note   in words, for the user: shared, or copied and why
    """

    def __init__(self, llm, policy: nn.Module, *, share: bool):
        self._llm, self._policy = llm, policy
        self._bindings = self._views = None
        reason = self._apply(lambda model: obstacle(model, policy))
        if reason is None:
            try:
                self._link(share)
            except LayoutUnknown as unknown:
                reason = str(unknown)
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
        layout = self._apply(lambda model: find_layout(model, self._policy))
        self._apply(lambda model: layout.unpack(model, self._policy.state_dict()))
        self._views = layout.views

    def _reload(self) -> None:
        """Through vLLM's loader. Its tensors have another form than the policy's, so the proof is
        that they changed exactly when the policy's did; the drift of logprobs is measured too."""
        weights = {"weights_iterator": plain_weights(self._policy)}
        self._llm.collective_rpc("reload_weights", kwargs=weights)
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


def obstacle(engine_model: nn.Module, policy: nn.Module) -> str | None:
    """Why the two cannot share memory whatever their names and shapes, or None."""
    for name, module in policy.named_modules():
        if hasattr(module, "base_layer"):
            return f"LoRA wraps the policy's {name}"
    for name, module in engine_model.named_modules():
        method = type(getattr(module, "quant_method", None)).__name__
        if method not in (*_PLAIN_METHODS, "NoneType") and hasattr(module, "weight"):
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


@torch.no_grad()
def plain_weights(policy: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """(Hugging Face name, tensor) of every parameter, LoRA layers (PEFT's) merged into their base.

    Adapters' own parameters are left out.
    """
    wrapped = {name: m for name, m in policy.named_modules() if hasattr(m, "base_layer")}
    for name, parameter in policy.named_parameters():
        owner, _, rest = name.rpartition(".base_layer.")
        if owner in wrapped and rest == "weight":
            layer = wrapped[owner]
            for adapter in layer.active_adapters:
                parameter = parameter + layer.get_delta_weight(adapter)
            yield f"{owner}.weight", parameter.detach()
        elif owner in wrapped:
            yield f"{owner}.{rest}", parameter.detach()
        elif not any(name.startswith(f"{inside}.") for inside in wrapped):
            yield name, parameter.detach()


def _repack_head(engine_model: nn.Module) -> None:
    """vLLM's CPU loader leaves the packed copy of a tied head as it was: pack it again."""
    head = getattr(engine_model, "lm_head", None)
    if head is not None and hasattr(head, "cpu_linear"):
        head.quant_method.process_weights_after_loading(head)
