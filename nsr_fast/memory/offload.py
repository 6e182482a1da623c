"""What the trunk keeps for its backward pass, in host memory until that pass comes.

With gradient checkpointing this is each layer's input: b L H bytes a token and little else; what a
layer recomputes does not pass through here.
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef

_MIN_BYTES = 1 << 10  # smaller tensors stay where they are
_MIN_BLOCK_BYTES = 64 << 20
_ALIGNMENT = 256


class ActivationOffload:
    """`with offload.of(policy): forward pass` moves what autograd saves to the host; the backward
    pass, outside of it, gets copies of the same bits and strides.

    Parameters and buffers of the policy are never moved, nor are small tensors. A tensor saved
    several times is moved once.
    """

    def __init__(self):
        self._ring = _Ring()
        self._stream: torch.cuda.Stream | None = None

    @property
    def num_kept_bytes(self) -> int:
        """Of tensors that wait in host memory now."""
        return self._ring.num_used_bytes

    @property
    def num_host_bytes(self) -> int:
        """Of the memory that is held for them."""
        return self._ring.num_bytes

    @contextmanager
    def of(self, policy: nn.Module) -> Iterator[None]:
        """The context of one forward pass of the policy's trunk."""
        tensors = (*policy.parameters(), *policy.buffers())
        own = {_address(tensor) for tensor in tensors}
        moved: dict[tuple, _Kept] = {}
        sources: dict[int, StorageWeakRef] = {}  # a weak reference keeps its key from being reused

        def pack(tensor: Tensor) -> "Tensor | _Kept":
            if tensor.nbytes < _MIN_BYTES or _address(tensor) in own or not _is_dense(tensor):
                return tensor
            source = StorageWeakRef(tensor.untyped_storage())
            sources.setdefault(source.cdata, source)
            layout = (tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype)
            key = (source.cdata, tensor._version, *layout)
            if key not in moved:
                moved[key] = self._keep(tensor)
            return moved[key]

        with saved_tensors_hooks(pack, self._bring_back):
            yield
        moved.clear()  # autograd holds on to pack
        sources.clear()

    @torch.no_grad()
    def _keep(self, tensor: Tensor) -> "_Kept":
        kept = _Kept(self._ring, tensor)
        source = tensor.detach()
        if not tensor.is_cuda:
            kept.value.copy_(source)
            return kept
        if self._stream is None:
            self._stream = torch.cuda.Stream(tensor.device)
        self._stream.wait_stream(torch.cuda.current_stream(tensor.device))
        with torch.cuda.stream(self._stream):
            kept.value.copy_(source, non_blocking=True)
        source.record_stream(self._stream)  # its memory is not given away before that
        return kept

    @torch.no_grad()
    def _bring_back(self, packed: "Tensor | _Kept") -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        value, device = packed.value, packed.device
        if self._stream is not None:
            torch.cuda.current_stream(device).wait_stream(self._stream)
        empty = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=device)
        return empty.copy_(value, non_blocking=True)


class _Kept:
    """A tensor's copy in the ring, given back when nothing can ask for it any more."""

    def __init__(self, ring: "_Ring", tensor: Tensor):
        num_bytes = tensor.nbytes
        place = ring.take(num_bytes, is_pinned=tensor.is_cuda).view(tensor.dtype)
        weakref.finalize(self, ring.give_back, num_bytes).atexit = False
        self.device = tensor.device
        self.value = place.as_strided(tensor.shape, tensor.stride())


class _Ring:
    """Host memory that is taken piece by piece and begun anew once every piece has come back.

    It grows by blocks; when it begins anew they become one block of what was needed at most.
    """

    def __init__(self):
        self._blocks: list[Tensor] = []
        self._start = 0  # of the free part of the last block
        self._num_taken = 0
        self.num_used_bytes = 0

    @property
    def num_bytes(self) -> int:
        return sum(block.numel() for block in self._blocks)

    def take(self, num_bytes: int, *, is_pinned: bool) -> Tensor:
        """[num_bytes] uint8, at an address that any dtype may have."""
        if self._num_taken == 0:
            self._begin_anew(is_pinned)
        if not self._blocks or self._start + num_bytes > self._blocks[-1].numel():
            self._add_block(max(_aligned(num_bytes), _MIN_BLOCK_BYTES), is_pinned)
        piece = self._blocks[-1][self._start : self._start + num_bytes]
        self._start += _aligned(num_bytes)
        self._num_taken += 1
        self.num_used_bytes += num_bytes
        return piece

    def give_back(self, num_bytes: int) -> None:
        self._num_taken -= 1
        self.num_used_bytes -= num_bytes

    def _begin_anew(self, is_pinned: bool) -> None:
        if len(self._blocks) > 1:
            size = self.num_bytes
            self._blocks.clear()
            self._add_block(size, is_pinned)
        self._start = 0

    def _add_block(self, num_bytes: int, is_pinned: bool) -> None:
        self._blocks.append(torch.empty(num_bytes, dtype=torch.uint8, pin_memory=is_pinned))
        self._start = 0


def _aligned(num_bytes: int) -> int:
    return -(-num_bytes // _ALIGNMENT) * _ALIGNMENT


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _is_dense(tensor: Tensor) -> bool:
    """Whether its elements fill their memory without gaps, in any order of the axes."""
    return torch.empty_like(tensor, device="meta").stride() == tensor.stride()
