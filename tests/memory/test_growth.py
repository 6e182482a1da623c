"""Memory over many rounds: nothing is kept, with failures now and then; and freed blocks return."""

import subprocess
import sys

import pytest

from nsr_fast.memory import measure
from nsr_fast.memory.limit import status_bytes

GROWTH = """
import sys, torch
from transformers import AutoModelForCausalLM
from rollouts import make_rollouts
from optimizers import optimizer_of
from nsr_fast.memory.limit import status_bytes
from nsr_fast.memory.measure import give_back_freed_memory
from nsr_fast.model.attention import PACKED_ATTENTION
from nsr_fast.model.batch import minibatches_of
from nsr_fast.objective import Objective
from nsr_fast.train.passes import PassBudget
from nsr_fast.train.step import update_policy

torch.set_num_threads(1)
assert give_back_freed_memory()
model = AutoModelForCausalLM.from_pretrained(
    sys.argv[1], dtype=torch.float32, attn_implementation=PACKED_ATTENTION
).train()
optimizer, objective = optimizer_of(model.parameters()), Objective.w_reinforce()
failing = {"at": None, "count": 0}

def look(module, args):
    failing["count"] += 1
    if failing["count"] == failing["at"]:
        raise torch.OutOfMemoryError("CUDA out of memory")

model.model.layers[-1].mlp.register_forward_pre_hook(look)
kept = []
for number in range(1, 61):
    failing.update(at=2 if number % 5 == 0 else None, count=0)
    rollouts = make_rollouts([200, 180, 160, 140, 120, 100], seed=number)
    budget = PassBudget(420)
    packs = minibatches_of(rollouts, 1, budget.tokens, torch.device("cpu"))
    update_policy(model, optimizer, packs, objective, 0.9, budget=budget)
    assert budget.num_failures == (number % 5 == 0)
    kept.append(status_bytes("RssAnon"))
print(max(kept[:10]), max(kept[-10:]))
"""


@pytest.mark.skipif(not status_bytes("RssAnon"), reason="no /proc/self/status")
def test_fifty_updates_keep_nothing(checkpoint):
    code = ["import sys; sys.path.insert(0, 'tests')", GROWTH]
    command = [sys.executable, "-c", "\n".join(code), str(checkpoint("qwen2"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    first, last = map(int, done.stdout.split())
    assert last - first < 4 << 20, (first, last)


@pytest.mark.skipif(not status_bytes("RssAnon"), reason="no /proc/self/status")
def test_the_peak_is_that_since_the_reset():
    def resident(num_bytes):
        block = bytearray(num_bytes)
        block[::4096] = b"x" * len(block[::4096])
        return block

    measure.reset_peak("cpu")
    before = measure.peak_bytes("cpu")
    resident(200 << 20)
    peak = measure.peak_bytes("cpu")
    assert 190 << 20 < peak - before < 230 << 20
    measure.reset_peak("cpu")
    assert measure.peak_bytes("cpu") < peak - (100 << 20)
