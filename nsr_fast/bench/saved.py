"""How many bytes of activations autograd keeps for the backward pass."""

from collections.abc import Iterable

import torch
from torch import Tensor


class SavedBytes:
    """Context manager: `bytes` are those of the distinct storages saved by operations inside it.

    A storage counts whole and once, however many operations save a part of it. `exclude` and the
    storages they share, say a model's parameters, do not count. What a reentrant checkpoint keeps
    passes no hook and is not seen.
    """

    def __init__(self, exclude: Iterable[Tensor] = ()):
        self._excluded = {x.untyped_storage().data_ptr() for x in exclude}
        self._sizes: dict[int, int] = {}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda saved: saved)

    @property
    def bytes(self) -> int:
        return sum(self._sizes.values())

    def __enter__(self) -> "SavedBytes":
        self._hooks.__enter__()
        return self

    def __exit__(self, *error) -> None:
        self._hooks.__exit__(*error)

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._excluded:
            self._sizes[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # an operation's own output, kept as it is, would be a cycle
