"""PolicyOptimizer over parameters without names of their own, for the tests."""

from nsr_fast.config_groups import OptimizerKeys
from nsr_fast.train.optimizer import PolicyOptimizer


def optimizer_of(parameters, *, seed=0, offload="none", **keys):
    """The parameters are called 0, 1, ... in their order."""
    named = [(str(index), parameter) for index, parameter in enumerate(parameters)]
    return PolicyOptimizer(named, OptimizerKeys(**keys), seed=seed, offload=offload)
