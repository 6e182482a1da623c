"""AdamW on the policy's parameters, in place, so that the write reaches the engine's memory.

At a learning rate of 1e-6 bfloat16 rounds an update away. master_weights says what keeps it:
    device      a float32 master of each bfloat16 parameter beside the moments: 12 bytes a parameter
    stochastic  no master: the update is rounded stochastically: 8 bytes a parameter
Parameters of float32 are stepped as they are. The step itself is kernels/adamw.py; with optim:
adamw_8bit it is kernels/adamw_8bit.py, 3.02 bytes a parameter of either dtype and no master.
offload says what lies in host memory instead, with masters of either dtype:
    optimizer   masters and moments; the CPU kernel steps them on a copy of the gradient
    gradients   those, and the sums of the gradients: train/host_gradients.py
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nsr_fast.config_groups import OptimizerKeys
from nsr_fast.kernels.adamw import adamw_step_, gradient_norm
from nsr_fast.kernels.adamw_8bit import adamw_8bit_step_, num_blocks
from nsr_fast.train.host_gradients import HostGradients, OwnGradients


@dataclass(slots=True)
class ParameterState:
    """AdamW's memory of one parameter, where it is stepped."""

    parameter: nn.Parameter
    exp_avg: Tensor  # float32; with absmax, its codes as int8
    exp_avg_sq: Tensor  # float32; with absmax, bfloat16
    absmax: Tensor | None  # of the blocks of exp_avg: adamw_8bit
    master: Tensor | None  # float32
    seed: int | None  # of the stochastic rounding
    is_hosted: bool  # stepped on the CPU, from a copy of the gradient
    rows: slice  # that are stepped
    num_steps: int = 0

    @property
    def optim(self) -> str:
        return "adamw" if self.absmax is None else "adamw_8bit"


class PolicyOptimizer:
    """AdamW (betas 0.9, 0.999), gradient clipping, constant learning rate after linear warm-up.

    named_parameters  (name, parameter): float32 or bfloat16, contiguous (also views); gradients of
                      either dtype. Frozen ones are left out
    num_rows          of a parameter: its leading rows that are stepped, the others keep their bits
    seed              of the stochastic rounding; a step's bits depend on it, the parameter's place
                      in the list and its step count alone
    offload           none | optimizer | gradients, as above
    Raises            ValueError for a parameter of another dtype or layout
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        keys: OptimizerKeys,
        *,
        num_rows: Mapping[str, int] | None = None,
        seed: int = 0,
        offload: str = "none",
    ):
        trained = [(name, p) for name, p in named_parameters if p.requires_grad]
        masters = keys.master_weights if offload == "none" else "host"
        self._states = {
            name: _initial_state(
                name, p, keys.optim, masters, seed + (index << 32), (num_rows or {}).get(name)
            )
            for index, (name, p) in enumerate(trained)
        }
        kind = HostGradients if offload == "gradients" else OwnGradients
        self.gradients = kind(trained)
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
        grads = self.gradients.take()
        norm = gradient_norm(list(grads.values()))
        scale = (self._keys.max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
        scale = torch.where(norm.isfinite(), scale, torch.nan)
        numbers = {"learning_rate": self.learning_rate, "weight_decay": self._keys.weight_decay}
        live = [(self._states[name], grad) for name, grad in grads.items()]
        for state, grad in live:
            if not state.is_hosted:
                step_on_device_(state, grad, grad_scale=scale, **numbers)
        grad_norm = float(norm)
        if math.isfinite(grad_norm):
            for state, grad in live:
                if state.is_hosted:
                    self._step_on_host(state, grad, grad_scale=float(scale), **numbers)
                state.num_steps += 1
            self.num_steps += 1
        self.gradients.clear()
        return grad_norm

    def _step_on_host(self, state: ParameterState, grad: Tensor, **numbers) -> None:
        if not self.gradients.are_on_host:
            grad = self._staging.like("grad", grad).copy_(grad)
        step_on_host_(state, grad, self._staging, **numbers)

    def state_dict(self) -> dict:
        """Everything a resumed run needs to take the same steps, bit for bit, by parameter name.

        The tensors are the live ones. Masters are there for bfloat16 parameters, unless rounding is
        stochastic; absmax is there with optim: adamw_8bit.
        """
        states = {
            name: {
                "exp_avg": s.exp_avg,
                "exp_avg_sq": s.exp_avg_sq,
                "absmax": s.absmax,
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
            if state.absmax is not None:
                state.absmax.copy_(other["absmax"])
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
    if state.absmax is not None:
        return step_8bit_(state, state.parameter.detach()[rows], grad[rows], **numbers)
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
    """One step on the CPU, where grad is; the result is copied to the parameter."""
    rows = state.rows
    parameter = state.parameter.detach()[rows]
    if state.absmax is not None:
        weight = staging.like("weight", parameter).copy_(parameter)
        step_8bit_(state, weight, grad[rows], **numbers)
        parameter.copy_(weight)
        return
    master = state.master[rows]
    is_half = parameter.dtype != torch.float32
    weight = staging.like("weight", parameter) if is_half else master
    adamw_step_(
        weight,
        grad[rows],
        state.exp_avg[rows],
        state.exp_avg_sq[rows],
        master=master if is_half else None,
        step=state.num_steps + 1,
        **numbers,
    )
    parameter.copy_(weight)


def step_8bit_(state: ParameterState, weight: Tensor, grad: Tensor, **numbers) -> None:
    """One step of weight, the rows that are stepped, where the state lies.

    They are the first rows: their blocks are the first blocks of the parameter, the last of them
    perhaps in part.
    """
    adamw_8bit_step_(
        weight,
        grad,
        state.exp_avg[state.rows],
        state.absmax[: num_blocks(weight.numel())],
        state.exp_avg_sq[state.rows],
        seed=state.seed,
        step=state.num_steps + 1,
        **numbers,
    )


def _initial_state(
    name: str, p: nn.Parameter, optim: str, master_weights: str, seed: int, num_rows: int | None
) -> ParameterState:
    if p.dtype not in (torch.float32, torch.bfloat16) or not p.is_contiguous():
        got = f"{list(p.shape)} {p.dtype} with strides {p.stride()}"
        raise ValueError(f"{name}: expected contiguous float32 or bfloat16, got {got}")
    is_hosted = master_weights == "host"
    device = torch.device("cpu") if is_hosted else p.device
    rows = slice(num_rows)
    if optim == "adamw_8bit":
        code = torch.zeros(p.shape, dtype=torch.int8, device=device)
        absmax = torch.zeros(num_blocks(p.numel()), device=device)
        exp_avg_sq = torch.zeros(p.shape, dtype=torch.bfloat16, device=device)
        return ParameterState(p, code, exp_avg_sq, absmax, None, seed, is_hosted, rows)
    is_stochastic = master_weights == "stochastic" and p.dtype == torch.bfloat16
    master = None
    if is_hosted or (p.dtype == torch.bfloat16 and not is_stochastic):
        master = p.detach().to(device).to(torch.float32, copy=True)
    moments = (torch.zeros(p.shape, device=device) for _ in range(2))
    stochastic_seed = seed if is_stochastic else None
    return ParameterState(p, *moments, None, master, stochastic_seed, is_hosted, rows)


def _check_saved(name: str, state: ParameterState, other: dict) -> None:
    shape = list(state.parameter.shape)
    if list(other["exp_avg"].shape) != shape:
        got = list(other["exp_avg"].shape)
        raise ValueError(f"optimizer state: {name}: expected {shape}, got {got}")
    saved_optim = "adamw" if other.get("absmax") is None else "adamw_8bit"
    if saved_optim != state.optim:
        raise ValueError(
            f"optim: expected {saved_optim}, the kind of the saved optimizer state, got "
            f"{state.optim}; resume with optim: {saved_optim}"
        )
    is_stochastic = state.seed is not None
    if is_stochastic != (other["seed"] is not None):
        was, cure = ("with", "device, or offload,") if is_stochastic else ("without", "stochastic")
        raise ValueError(
            f"optimizer state: {name} was trained {was} a master; "
            f"resume with master_weights: {cure} and the dtype of the saved run"
        )
