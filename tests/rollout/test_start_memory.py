"""One copy of the weights from the first byte: what the start of a run leaves in its process."""

import json
import subprocess
import sys

import pytest
import torch
from checkpoints import byte_tokenizer
from transformers import AutoModelForCausalLM, LlamaConfig

pytestmark = pytest.mark.vllm
MIB = 1 << 20
KV_BYTES = 32 * MIB

START = """
import gc, json, sys
import torch
from nsr_fast.config import Config
from nsr_fast.memory.limit import status_bytes
from nsr_fast.memory.measure import reset_peak
from nsr_fast.memory.measure import give_back_freed_memory
from nsr_fast.run.build import build_actor, prepare
give_back_freed_memory()  # as train/loop.py does
config = Config.from_flat(json.loads(sys.argv[1]))
inputs = prepare(config)
before, resident = status_bytes("RssAnon"), status_bytes("VmRSS")
reset_peak("cpu")
actor = build_actor(config, inputs)
peak = status_bytes("VmHWM") - resident
gc.unfreeze()  # vLLM hides what it made from the collector
gc.collect()
found = [x for x in gc.get_objects() if isinstance(x, torch.Tensor) and not x.is_meta]
storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in found}
tensors = sum(storages.values())
weights = sum(p.nbytes for p in actor.policy.parameters())
anonymous = status_bytes("RssAnon") - before
print(json.dumps({"tensors": tensors, "weights": weights, "anonymous": anonymous, "peak": peak}))
actor.engine.close()
"""


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    """Of a tied Llama of 300 MiB in float32, started by the settings of a run."""
    if torch.cuda.is_available():
        pytest.skip("counts the resident set of a CPU run")
    pytest.importorskip("vllm")
    folder = tmp_path_factory.mktemp("large")
    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=512,
        intermediate_size=2048,
        num_hidden_layers=16,
        num_attention_heads=8,
        num_key_value_heads=4,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=2,
    )
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    (folder / "rows.jsonl").write_text('{"problem": "1 + 1", "answer": "2"}\n')
    settings = {"model": str(folder), "data": str(folder / "rows.jsonl"), "template": "none"}
    settings |= {"output_dir": str(folder / "run"), "engine": "vllm", "dtype": "float32"}
    settings |= {"kv_cache_gib": KV_BYTES / 2**30, "max_num_seqs": 4}
    settings |= {"max_prompt_length": 32, "max_completion_length": 32}
    command = [sys.executable, "-c", START, json.dumps(settings)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_every_tensor_of_the_process_is_the_weights_once_and_the_cache(numbers):
    assert numbers["weights"] > 290 * MIB
    assert numbers["tensors"] < 1.02 * (numbers["weights"] + KV_BYTES) + 24 * MIB


def test_no_second_copy_is_made_on_the_way(numbers):
    """At the peak: the weights, their file as it is mapped, the cache, vLLM's modules."""
    brought = 250 * MIB  # 208 measured; loading the policy too would add 160
    assert numbers["peak"] < 2 * numbers["weights"] + KV_BYTES + brought


def test_the_process_holds_no_second_copy(numbers):
    imports = 220 * MIB  # vLLM's modules, oneDNN
    assert numbers["anonymous"] < 1.1 * numbers["weights"] + KV_BYTES + imports
