"""Where a round's gradients gather: in every parameter's .grad, or in host memory.

HostGradients: a gradient is final for its pass once autograd has written it. It then leaves for a
float32 sum on the host and is freed, so that few are alive at a time; norm and step read the sums
after the last pass. The additions and their order are those of .grad: in float32 the sums have its
bits, of bfloat16 gradients they are nearer to the exact ones.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Named = Iterable[tuple[str, nn.Parameter]]
_PIECE_BYTES = 64 << 20  # of a gradient that cross at once
_NUM_PIECES = 4  # on their way at a time


class OwnGradients:
    """The gradients where autograd leaves them."""

    are_on_host = False

    def __init__(self, named_parameters: Named):
        self._parameters = dict(named_parameters)

    @contextmanager
    def head_pass(self, head: nn.Parameter) -> Iterator[None]:
        """Around a pass of the head that adds to head.grad itself (accumulate_into_grad)."""
        yield

    def take(self) -> dict[str, Tensor]:
        """The sums of all passes, by name; parameters without a gradient are left out."""
        grads = {name: p.grad for name, p in self._parameters.items() if p.grad is not None}
        return {name: grad.contiguous() for name, grad in grads.items()}

    def clear(self) -> None:
        """Forget them, also those of a pass that failed."""
        for p in self._parameters.values():
            p.grad = None


class HostGradients:
    """The same in float32 sums on the host, 4 bytes a parameter, that hooks of autograd fill.

    The head's sum comes back for its pass, which adds to it chunk by chunk, and leaves before the
    trunk's backward pass begins; a tied embedding's own gradient is added to it by the hook.
    """

    are_on_host = True

    def __init__(self, named_parameters: Named):
        self._sums = {p: _Sum(name, p) for name, p in named_parameters}
        self._crossing = _Crossing()
        for p in self._sums:
            p.register_post_accumulate_grad_hook(self._leave)

    @contextmanager
    def head_pass(self, head: nn.Parameter) -> Iterator[None]:
        """Around a pass of the head that adds to head.grad itself (accumulate_into_grad)."""
        total = self._sums.get(head)
        if total is None:  # frozen
            yield
            return
        self._crossing.finish()
        if head.is_cuda and not total.value.is_pinned():  # no other sum goes back to the device
            total.value = total.value.pin_memory()
        if total.is_filled:
            if head.dtype != torch.float32:
                head.grad_dtype = torch.float32
            head.grad = total.value.to(head.device, copy=True)
        yield
        total.is_filled = False
        self._leave(head)

    def take(self) -> dict[str, Tensor]:
        """The sums of all passes, by name; valid until clear()."""
        self._crossing.finish()
        return {s.name: s.value for s in self._sums.values() if s.is_filled}

    def clear(self) -> None:
        """Forget them, also those of a pass that failed."""
        self._crossing.drop()
        for p, total in self._sums.items():
            p.grad = None
            total.is_filled = False

    @torch.no_grad()
    def _leave(self, p: nn.Parameter) -> None:
        grad, p.grad = p.grad, None
        if grad is None:
            return
        total = self._sums[p]
        self._crossing.send(grad, total.value, is_first=not total.is_filled)
        total.is_filled = True


class _Sum:
    """The sum of one parameter; without meaning until it is filled."""

    def __init__(self, name: str, p: nn.Parameter):
        self.name = name
        self.value = torch.empty(p.shape)
        self.is_filled = False


@dataclass(frozen=True, slots=True)
class _Piece:
    """Part of a gradient on its way, and where it is added."""

    place: Tensor  # bytes of the ring
    arrived: Tensor  # [n] in it, once `event` has happened
    target: Tensor  # [n] float32
    is_first: bool
    source: Tensor | None  # on the device, kept until it has been read
    event: torch.cuda.Event | None

    def wait(self) -> None:
        if self.event is not None:
            self.event.synchronize()

    def add(self) -> None:
        self.wait()
        if self.is_first:
            self.target.copy_(self.arrived)  # not 0 + x, which would lose the sign of -0
        else:
            self.target.add_(self.arrived)


class _Crossing:
    """A ring of places in host memory (page-locked for CUDA) that gradients pass through in order.

    A piece is copied to its place on a stream of its own and added when its place is wanted again,
    or at the end. From the CPU's memory the copy is done at once.
    """

    def __init__(self):
        self._under_way: deque[_Piece] = deque()
        self._free: list[Tensor] = []
        self._num_places = 0
        self._stream: torch.cuda.Stream | None = None

    def send(self, grad: Tensor, target: Tensor, *, is_first: bool) -> None:
        """Add grad to target, or write it there."""
        size = _PIECE_BYTES // grad.element_size()
        for part, to in zip(grad.reshape(-1).split(size), target.view(-1).split(size)):
            place = self._place(part)
            arrived = place[: part.nbytes].view(part.dtype)
            event = self._copy(part, arrived)
            source = part if part.is_cuda else None
            self._under_way.append(_Piece(place, arrived, to, is_first, source, event))

    def finish(self) -> None:
        """Until every piece has been added."""
        while self._under_way:
            self._finish_oldest()

    def drop(self) -> None:
        """Until no piece is under way; none of them is added."""
        while self._under_way:
            piece = self._under_way.popleft()
            piece.wait()
            self._free.append(piece.place)

    def _finish_oldest(self) -> None:
        piece = self._under_way.popleft()
        piece.add()
        self._free.append(piece.place)

    def _place(self, part: Tensor) -> Tensor:
        if not self._free and self._num_places == _NUM_PIECES:
            self._finish_oldest()
        if self._free:
            return self._free.pop()
        self._num_places += 1
        return torch.empty(_PIECE_BYTES, dtype=torch.uint8, pin_memory=part.is_cuda)

    def _copy(self, part: Tensor, arrived: Tensor) -> torch.cuda.Event | None:
        if not part.is_cuda:
            arrived.copy_(part)
            return None
        if self._stream is None:
            self._stream = torch.cuda.Stream(part.device)
        self._stream.wait_stream(torch.cuda.current_stream(part.device))
        with torch.cuda.stream(self._stream):
            arrived.copy_(part, non_blocking=True)
            return self._stream.record_event()
