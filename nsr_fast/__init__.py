"""nsr_fast: train a reasoning model on its own mistakes.

The public names load their modules on first use, so `import nsr_fast` needs neither torch nor vLLM.
"""

from importlib import import_module

__version__ = "0.1.0"

_PUBLIC = {
    "linear_policy_loss": "nsr_fast.kernels.policy_loss",
    "linear_logprobs": "nsr_fast.kernels.logprobs",
    "available_backends": "nsr_fast.kernels.rows",
    "Objective": "nsr_fast.objective",
    "Verdict": "nsr_fast.reward",
    "verify_math": "nsr_fast.reward",
    "pass_at_k": "nsr_fast.evaluate",
    "InputError": "nsr_fast.errors",
    "GuardStop": "nsr_fast.errors",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'nsr_fast' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
