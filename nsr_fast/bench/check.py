"""Every backend of this machine against float64: the verb `nsr-fast check`.

For each device and dtype a small head with odd sizes is differentiated by every backend that can
serve it, beside plain torch in the same dtype. A backend passes when no error exceeds twice torch's
plus a few roundings. Backends that cannot run are listed with their reason.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from nsr_fast.kernels import rows_reference as reference
from nsr_fast.kernels.policy_loss import linear_policy_loss
from nsr_fast.kernels.rows import available_backends, resolve_backend
from nsr_fast.objective.terms import PpoClip

_NAMES = ("loss", "hidden", "weight", "bias")
_ROUNDINGS = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
# (tokens, vocab, width, options): no tile of any kernel divides these vocabularies.
_PROBLEMS = [
    (67, 1009, 24, {}),
    (5, 4099, 33, {"temperature": 0.7, "softcap": 8.0, "entropy_coef": 0.1}),
    (40, 513, 16, {"surrogate": PpoClip(0.2, 0.28), "chunk_rows": 16}),
]


@dataclass(frozen=True, slots=True)
class CheckResult:
    """Worst relative error of one backend on one device and dtype, or why it did not run."""

    backend: str
    device: str
    dtype: str
    errors: dict[str, float]
    torch_errors: dict[str, float]
    is_good: bool
    reason: str | None = None


def run_check() -> bool:
    """Print the table of check_backends; True when every backend that ran is good."""
    results = check_backends()
    head = " ".join(f"{name:>9}" for name in _NAMES)
    print(f"{'backend':10} {'device':7} {'dtype':9} {head}   relative error (plain torch's)")
    for r in results:
        if r.reason is not None:
            print(f"{r.backend:10} {r.device:7} {r.dtype:9} not run: {r.reason}")
            continue
        cells = " ".join(f"{r.errors[name]:9.1e}" for name in _NAMES)
        plain = " ".join(f"{r.torch_errors[name]:.0e}" for name in _NAMES)
        verdict = "ok" if r.is_good else "WRONG"
        print(f"{r.backend:10} {r.device:7} {r.dtype:9} {cells}   ({plain}) {verdict}")
    return all(r.is_good for r in results if r.reason is None)


def check_backends() -> list[CheckResult]:
    """One result for each backend, device and dtype; absent backends once, with the reason."""
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    results = []
    for name, reason in available_backends().items():
        if reason is not None:
            results.append(CheckResult(name, "-", "-", {}, {}, False, reason))
            continue
        for device in map(torch.device, devices):
            for dtype in _ROUNDINGS:
                try:
                    resolve_backend(name, device, dtype)
                except ValueError:
                    continue  # this backend is not for this device or dtype
                results.append(_check_one(name, device, dtype))
    return results


def _check_one(name: str, device: torch.device, dtype: torch.dtype) -> CheckResult:
    errors = dict.fromkeys(_NAMES, 0.0)
    plain_errors = dict.fromkeys(_NAMES, 0.0)
    is_good = True
    for seed, (tokens, vocab, width, options) in enumerate(_PROBLEMS):
        problem = _problem(tokens, vocab, width, seed, dtype, device)
        got = _run(linear_policy_loss, problem, dtype, backend=name, **options)
        plain_options = {k: v for k, v in options.items() if k != "chunk_rows"}
        plain = _run(reference.linear_policy_loss, problem, dtype, **plain_options)
        truth = _run(reference.linear_policy_loss, problem, torch.float64, **plain_options)
        for key, a, b, t in zip(_NAMES, got, plain, truth):
            error, plain_error = _relative(a, t), _relative(b, t)
            is_good &= error <= 2 * plain_error + _ROUNDINGS[dtype]
            errors[key] = max(errors[key], error)
            plain_errors[key] = max(plain_errors[key], plain_error)
    text = str(dtype).removeprefix("torch.")
    return CheckResult(name, device.type, text, errors, plain_errors, is_good)


def _problem(
    tokens: int, vocab: int, width: int, seed: int, dtype: torch.dtype, device: torch.device
) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    values = {
        "hidden": torch.randn(tokens, width, generator=g),
        "weight": torch.randn(vocab, width, generator=g) * 2 / width**0.5,
        "bias": torch.randn(vocab, generator=g),
    }
    values = {name: x.to(dtype) for name, x in values.items()}
    values["target"] = torch.randint(0, vocab, (tokens,), generator=g)
    w = torch.rand(tokens, generator=g) - 1.5  # one sign: the loss has no cancellation
    values["token_weight"] = torch.where(torch.rand(tokens, generator=g) < 0.3, 0.0, w)
    return {name: x.to(device) for name, x in values.items()}


def _run(function, problem: dict[str, Tensor], dtype: torch.dtype, **options) -> list[Tensor]:
    leaves = [problem[name].to(dtype).requires_grad_() for name in ("hidden", "weight", "bias")]
    hidden, weight, bias = (x.detach().requires_grad_() for x in leaves)
    if "surrogate" in options:
        options = {**options, "old_logprob": torch.full_like(problem["token_weight"], -6.0)}
    args = (hidden, weight, problem["target"], problem["token_weight"])
    result = function(*args, bias=bias, **options)
    loss = getattr(result, "loss", result)
    loss.backward()
    return [loss.detach(), hidden.grad, weight.grad, bias.grad]


def _relative(found: Tensor, truth: Tensor) -> float:
    """Largest error of an element relative to the largest element; infinite when not finite."""
    gap = (found.double() - truth.double()).abs().max()
    value = float(gap / truth.abs().max().clamp(min=1e-300))
    return value if value == value else float("inf")
