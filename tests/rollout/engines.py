"""What the tests of both engines share."""

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from nsr_fast.config_run import EngineKeys
from nsr_fast.rollout.engine import build_engine
from nsr_fast.types import PLAIN, Group, Prompt, Sampling, sampling_seed

TEXTS = ["What is 12 + 30?", "Count: 1 2 3", "x", "the quick brown fox jumps"]
GREEDY = Sampling(1, 12, temperature=0.0)


def load(folder):
    """(model in float32, tokenizer) of a checkpoint."""
    model = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(str(folder))


def start(name, folder, model, tokenizer, *, stop_token_ids=(2,), adapter=PLAIN, **keys):
    keys = EngineKeys(engine=name, **{"max_num_seqs": 16, **keys})
    sizes = {"max_model_len": 512, "stop_token_ids": stop_token_ids, "adapter": adapter}
    sizes["kv_cache_bytes"] = None if torch.cuda.is_available() else 64 << 20
    return build_engine(keys, str(folder), model, tokenizer, **sizes)


def prompts_of(tokenizer, texts):
    return [
        Prompt(str(i), text, tuple(tokenizer.encode(text)), None, {})
        for i, text in enumerate(texts)
    ]


def generate(engine, prompts, sampling, seed=0):
    """The groups, in the order of the prompts."""
    seeds = [sampling_seed(seed, "test", 0, i) for i in range(len(prompts))]
    return grouped(prompts, engine.generate(prompts, sampling, seeds))


def grouped(prompts, stream):
    """An engine's stream as groups, in the order of the prompts and of the samples."""
    held = {(index, sample): rollout for index, sample, rollout in stream}
    return [
        Group(prompt, tuple(held[key] for key in sorted(held) if key[0] == index))
        for index, prompt in enumerate(prompts)
    ]


def trainer_logprobs(model, prompt, rollout, temperature=1.0):
    ids = torch.tensor([[*prompt.token_ids, *rollout.token_ids]], device=model.device)
    with torch.no_grad():
        logits = model(ids, use_cache=False).logits[0, len(prompt.token_ids) - 1 : -1]
    logprob = (logits / temperature).log_softmax(-1)
    chosen = torch.tensor(rollout.token_ids, device=model.device)
    return logprob.gather(1, chosen[:, None])[:, 0]


def worst_error(engine, model, prompt):
    """Largest |trainer - sampler| logprob over two sampled completions."""
    (group,) = generate(engine, [prompt], Sampling(2, 8))
    errors = [
        trainer_logprobs(model, prompt, r) - torch.tensor(r.sampler_logprob) for r in group.rollouts
    ]
    return float(torch.cat(errors).abs().max())


def take_step(model, seed, learning_rate=2e-2):
    """One AdamW step, by default large enough to change most greedy tokens."""
    torch.manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    ids = torch.randint(3, 259, (4, 24)).to(model.device)
    model(ids, labels=ids, use_cache=False).loss.backward()
    optimizer.step()
    model.zero_grad()
