"""AdamW on the policy's parameters, in place, so that the write reaches the engine's memory.

At a learning rate of 1e-6 bfloat16 rounds an update away. master_weights says what keeps it:
    device      a float32 master of each bfloat16 parameter beside the moments: 12 bytes a parameter
    host        masters and moments in host memory, of every parameter that is not there itself;
                stepped by the CPU kernel on a copy of the gradient: 0 bytes on the device
    stochastic  no master: the update is rounded stochastically: 8 bytes a parameter
Parameters of float32 are stepped as they are. The step itself is kernels/adamw.py.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nsr_fast.config_groups import OptimizerKeys
from nsr_fast.kernels.adamw import adamw_step_, gradient_norm


@dataclass(slots=True)
class ParameterState:
    """AdamW's memory of one parameter, where it is stepped."""

    parameter: nn.Parameter
    exp_avg: Tensor  # float32, as the next two
    exp_avg_sq: Tensor
    master: Tensor | None
    seed: int | None  # of the stochastic rounding
    is_hosted: bool  # stepped on the CPU, from a copy of the gradient
    rows: slice  # that are stepped
    num_steps: int = 0


class PolicyOptimizer:
    """AdamW (betas 0.9, 0.999), gradient clipping, constant learning rate after linear warm-up.

    named_parameters  (name, parameter): float32 or bfloat16, contiguous (also views); gradients of
                      either dtype. Frozen ones are left out
    num_rows          of a parameter: its leading rows that are stepped, the others keep their bits
    seed              of the stochastic rounding; a step's bits depend on it, the parameter's place
                      in the list and its step count alone
    Raises            ValueError for a parameter of another dtype or layout
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        keys: OptimizerKeys,
        *,
        num_rows: Mapping[str, int] | None = None,
        seed: int = 0,
    ):
        trained = [(name, p) for name, p in named_parameters if p.requires_grad]
        self._states = {
            name: _initial_state(
                name, p, keys.master_weights, seed + (index << 32), (num_rows or {}).get(name)
            )
            for index, (name, p) in enumerate(trained)
        }
        self._staging = Staging()
        self._keys = keys
        self.num_steps = 0

    @property
    def learning_rate(self) -> float:
        """Of the step to come."""
        keys = self._keys
        return keys.learning_rate * min(1.0, (self.num_steps + 1) / max(1, keys.warmup_steps))

    def step(self) -> float:
        """Clip, update in place, clear the gradients; returns the gradient norm before clipping.

        A non-finite gradient changes nothing and is returned as it is. Clipping is a factor inside
        the step. On a GPU the steps are queued before the norm is known here: the factor of a
        non-finite norm is NaN, which makes each of them do nothing.
        """
        live = [s for s in self._states.values() if s.parameter.grad is not None]
        grads = [s.parameter.grad.contiguous() for s in live]
        norm = gradient_norm(grads)
        scale = (self._keys.max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
        scale = torch.where(norm.isfinite(), scale, torch.nan)
        numbers = {"learning_rate": self.learning_rate, "weight_decay": self._keys.weight_decay}
        for state, grad in zip(live, grads):
            if not state.is_hosted:
                step_on_device_(state, grad, grad_scale=scale, **numbers)
        grad_norm = float(norm)
        if math.isfinite(grad_norm):
            for state, grad in zip(live, grads):
                if state.is_hosted:
                    step_on_host_(state, grad, self._staging, grad_scale=float(scale), **numbers)
                state.num_steps += 1
            self.num_steps += 1
        for state in live:
            state.parameter.grad = None
        return grad_norm

    def drop_gradients(self) -> None:
        """Forget what was accumulated since the last step."""
        for state in self._states.values():
            state.parameter.grad = None

    def state_dict(self) -> dict:
        """Everything a resumed run needs to take the same steps, bit for bit, by parameter name.

        The tensors are the live ones. Masters are there for bfloat16 parameters, unless rounding is
        stochastic.
        """
        states = {
            name: {
                "exp_avg": s.exp_avg,
                "exp_avg_sq": s.exp_avg_sq,
                "master": s.master if s.parameter.dtype != torch.float32 else None,
                "seed": s.seed,
                "num_steps": s.num_steps,
            }
            for name, s in self._states.items()
        }
        return {"num_steps": self.num_steps, "parameters": states}

    @torch.no_grad()
    def load_state_dict(self, saved: dict) -> None:
        """Continue from a state_dict(); the parameters hold the saved weights already. Device and
        host masters may be exchanged. ValueError when the state is of other parameters."""
        theirs = saved["parameters"]
        if different := sorted(theirs.keys() ^ self._states.keys()):
            where = "the saved state" if different[0] in theirs else "this policy"
            raise ValueError(
                f"optimizer state: expected the state of this policy's {len(self._states)} "
                f"parameters, got {len(theirs)}; {different[0]} is in {where} only"
            )
        for name, state in self._states.items():
            _check_saved(name, state, theirs[name])
        for name, state in self._states.items():
            other = theirs[name]
            state.exp_avg.copy_(other["exp_avg"])
            state.exp_avg_sq.copy_(other["exp_avg_sq"])
            if state.master is not None:
                has_master = other["master"] is not None
                state.master.copy_(other["master"] if has_master else state.parameter)
            state.seed, state.num_steps = other["seed"], other["num_steps"]
        self.num_steps = saved["num_steps"]


class Staging:
    """Host buffers between a device and the CPU step, reused by every parameter.

    They are page-locked for CUDA; masters and moments never travel, so those are not. Copies are
    awaited one by one: nothing of the step overlaps.
    """

    def __init__(self):
        self._buffers: dict[tuple[str, torch.dtype], Tensor] = {}

    def like(self, name: str, x: Tensor) -> Tensor:
        """A host tensor of x's shape and dtype; valid until `name` is asked for again."""
        buffer = self._buffers.get((name, x.dtype))
        if buffer is None or buffer.numel() < x.numel():
            buffer = torch.empty(x.numel(), dtype=x.dtype, pin_memory=x.is_cuda)
            self._buffers[name, x.dtype] = buffer
        return buffer[: x.numel()].view(x.shape)


def step_on_device_(state: ParameterState, grad: Tensor, **numbers) -> None:
    """One step where the parameter is; its master (if any) and moments lie there too."""
    rows = state.rows
    adamw_step_(
        state.parameter.detach()[rows],
        grad[rows],
        state.exp_avg[rows],
        state.exp_avg_sq[rows],
        master=None if state.master is None else state.master[rows],
        seed=state.seed,
        step=state.num_steps + 1,
        **numbers,
    )


def step_on_host_(state: ParameterState, grad: Tensor, staging: Staging, **numbers) -> None:
    """One step on the CPU: the gradient is copied there, the result to the parameter."""
    rows = state.rows
    parameter, master = state.parameter.detach()[rows], state.master[rows]
    host_grad = staging.like("grad", grad[rows]).copy_(grad[rows])
    is_half = parameter.dtype != torch.float32
    weight = staging.like("weight", parameter) if is_half else master
    adamw_step_(
        weight,
        host_grad,
        state.exp_avg[rows],
        state.exp_avg_sq[rows],
        master=master if is_half else None,
        step=state.num_steps + 1,
        **numbers,
    )
    parameter.copy_(weight)


def _initial_state(
    name: str, p: nn.Parameter, master_weights: str, seed: int, num_rows: int | None
) -> ParameterState:
    if p.dtype not in (torch.float32, torch.bfloat16) or not p.is_contiguous():
        got = f"{list(p.shape)} {p.dtype} with strides {p.stride()}"
        raise ValueError(f"{name}: expected contiguous float32 or bfloat16, got {got}")
    is_hosted = master_weights == "host" and p.device.type != "cpu"
    device = torch.device("cpu") if is_hosted else p.device
    is_stochastic = master_weights == "stochastic" and p.dtype == torch.bfloat16
    master = None
    if is_hosted or (p.dtype == torch.bfloat16 and not is_stochastic):
        master = p.detach().to(device).to(torch.float32, copy=True)
    moments = (torch.zeros(p.shape, device=device) for _ in range(2))
    stochastic_seed = seed if is_stochastic else None
    rows = slice(num_rows)
    return ParameterState(p, *moments, master, stochastic_seed, is_hosted, rows)


def _check_saved(name: str, state: ParameterState, other: dict) -> None:
    shape = list(state.parameter.shape)
    if list(other["exp_avg"].shape) != shape:
        got = list(other["exp_avg"].shape)
        raise ValueError(f"optimizer state: {name}: expected {shape}, got {got}")
    is_stochastic = state.seed is not None
    if is_stochastic != (other["seed"] is not None):
        was, cure = ("with", "device or host") if is_stochastic else ("without", "stochastic")
        raise ValueError(
            f"optimizer state: {name} was trained {was} a master; "
            f"resume with master_weights: {cure} and the dtype of the saved run"
        )
