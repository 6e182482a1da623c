"""One thread for tiny models: vLLM freezes the number when the first engine is built."""

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)
