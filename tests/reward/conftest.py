"""The sandboxes of the code reward that this machine can run."""

import pytest

from nsr_fast.reward.code.sandbox import BACKENDS, backend_problems


@pytest.fixture(params=BACKENDS)
def backend(request) -> str:
    """Each sandbox in turn; one that does not work here is skipped with its reason."""
    if problem := backend_problems()[request.param]:
        pytest.skip(f"{request.param}: {problem}")
    return request.param
