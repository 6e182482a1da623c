"""A save costs no second copy of what it saves."""

import json
import subprocess
import sys

import pytest
import torch
from checkpoints import byte_tokenizer

SAVE = """
import json, sys
from pathlib import Path
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig
from nsr_fast.memory.limit import status_bytes
from nsr_fast.memory.measure import give_back_freed_memory, reset_peak
from nsr_fast.run.checkpoint import save_checkpoint
give_back_freed_memory()  # as train/loop.py does
sizes = dict(vocab_size=16000, hidden_size=512, intermediate_size=2048, num_hidden_layers=8)
heads = dict(num_attention_heads=8, num_key_value_heads=4, tie_word_embeddings=True)
with torch.device("meta"):
    policy = AutoModelForCausalLM.from_config(LlamaConfig(**sizes, **heads), dtype=torch.float32)
policy.to_empty(device="cpu").tie_weights()
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
fused = torch.ones(sum(p.numel() for p in policy.parameters()))
start = 0
for parameter in policy.parameters():  # rows of an engine's tensors
    parameter.data = fused[start : start + parameter.numel()].view(parameter.shape)
    start += parameter.numel()
moments = torch.ones_like(fused)
before = status_bytes("VmRSS")
reset_peak("cpu")
save_checkpoint(Path(sys.argv[1]) / "round-1", policy, tokenizer, {"round": 1, "moments": moments})
print(json.dumps({"weights": fused.nbytes, "grown": status_bytes("VmHWM") - before}))
"""


def test_a_save_takes_no_copy_of_the_weights_nor_of_the_moments(tmp_path):
    """Of a tied Llama of 150 MiB: 0.01 of the weights measured, 1.0 when they were cloned."""
    if torch.cuda.is_available():
        pytest.skip("counts the resident set of a CPU run")
    byte_tokenizer().save_pretrained(tmp_path)
    command = [sys.executable, "-c", SAVE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    numbers = json.loads(done.stdout.splitlines()[-1])
    assert numbers["weights"] > 140 << 20
    assert numbers["grown"] < 0.3 * numbers["weights"], numbers
    size = (tmp_path / "round-1" / "model.safetensors").stat().st_size
    assert size < numbers["weights"] + 65536
