"""Proof that a change of the kernels moved no number: exact digests of their results, compared.

    PYTHONPATH=OLD python benchmarks/same_numbers.py record old.json
    PYTHONPATH=NEW python benchmarks/same_numbers.py record new.json
    python benchmarks/same_numbers.py compare old.json new.json

Records loss, logprob, entropy, lse, dHidden, dWeight, dBias and the summary of the statistics of
twelve cases for every available backend in float32 and bfloat16, by the public API alone, and
four through the Triton interpreter. Exit code 1 when a digest differs or is missing.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor

from nsr_fast import available_backends, linear_logprobs, linear_policy_loss

DTYPES = (torch.float32, torch.bfloat16)
INTERPRETED = ("plain", "everything", "logprobs", "logprobs fused")


def clip_class() -> type:
    """PpoClip from the objectives, or from the kernels, where it lay once."""
    for path in ("nsr_fast.objective.terms", "nsr_fast.kernels.surrogates"):
        try:
            return import_module(path).PpoClip
        except ImportError:
            continue
    raise ImportError("PpoClip is found in no known place")


def cases() -> dict[str, tuple[tuple[int, int, int], dict]]:
    """name -> ((T, V, D), options); `zeros`, `bias`, `upstream`, `passes` belong to this script."""
    clip = clip_class()
    both = {"surrogate": clip(0.2, 0.28, sampler_cap=1.5), "old_logprob": -5.0}
    every = {"temperature": 0.7, "softcap": 6.0, "entropy_coef": 0.1, "zeros": True, "bias": True}
    kl = clip(0.1, dual_clip=3.0, kl="k3", kl_coef=0.2)
    sides = {"old_logprob": -5.0, "sampler_logprob": -5.2, "ref_logprob": -4.9}
    return {
        "plain": ((37, 1003, 19), {}),
        "blocks of the product": ((5, 8213, 33), {"zeros": True}),
        "zeros": ((41, 517, 13), {"zeros": True, "bias": True}),
        "scaling": ((9, 2049, 24), {"bias": True, "temperature": 0.7, "softcap": 8.0}),
        "clip": ((50, 301, 16), {"surrogate": clip(0.2, 0.28), "old_logprob": -5.0}),
        "sampler cap": ((50, 301, 16), {**both, "sampler_logprob": -5.2, "zeros": True}),
        "entropy": ((33, 777, 11), {"entropy_coef": 0.1, "bias": True}),
        "into grad": ((40, 555, 12), {"accumulate_into_grad": True, "bias": True, "passes": 2}),
        "chunks": ((45, 600, 10), {"chunk_rows": 16, "zeros": True, "upstream": -3.0}),
        "everything": ((30, 401, 9), {**every, **sides, "surrogate": kl, "chunk_rows": 8}),
        "float32 logits": ((21, 5003, 14), {"logits_dtype": torch.float32, "bias": True}),
        "logprobs": ((35, 1203, 17), {"bias": True, "temperature": 0.8, "softcap": 9.0}),
        "logprobs fused": ((9, 500, 24), {"bias": True, "backend": "triton_fused"}),
    }


def inputs(shape: tuple[int, int, int], dtype: torch.dtype, options: dict) -> dict[str, Tensor]:
    """The same numbers on every machine; every third weight 0, one hidden row of those NaN."""
    tokens, vocab, width = shape
    g = torch.Generator().manual_seed(tokens + vocab + width)
    weight = torch.randn(vocab, width, generator=g) * 2.0 / width**0.5
    case = {
        "hidden": torch.randn(tokens, width, generator=g).to(dtype),
        "weight": weight.to(dtype),
        "bias": torch.randn(vocab, generator=g).to(dtype) if options.pop("bias", False) else None,
        "target": torch.randint(0, vocab, (tokens,), generator=g),
        "token_weight": torch.randn(tokens, generator=g),
    }
    if options.pop("zeros", False):
        case["token_weight"][::3] = 0.0
        case["hidden"][3] = torch.nan
    for name in ("old_logprob", "sampler_logprob", "ref_logprob"):
        if name in options:
            options[name] = options[name] + torch.randn(tokens, generator=g)
    return case


def digest(x: Tensor | None) -> str | None:
    if x is None:
        return None
    data = x.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    return f"{str(x.dtype).removeprefix('torch.')} {hashlib.sha256(data).hexdigest()[:24]}"


def one_case(name: str, backend: str, dtype: torch.dtype) -> dict[str, str | None]:
    """Digests of everything one case gives."""
    shape, options = cases()[name]
    case = inputs(shape, dtype, options := dict(options))
    options = {"backend": backend, **options}
    passes, upstream = options.pop("passes", 1), options.pop("upstream", 1.0)
    names = ("hidden", "weight", "bias")
    hidden, weight, bias = (None if case[n] is None else case[n].requires_grad_() for n in names)
    for _ in range(passes):
        if name.startswith("logprobs"):
            out = linear_logprobs(hidden, weight, case["target"], bias=bias, **options)
            w = case["token_weight"]
            loss = (w * out.logprob).sum() + (w.abs() * out.entropy).sum()
            summary = {}
        else:
            args = (hidden, weight, case["target"], case["token_weight"])
            out = linear_policy_loss(*args, bias=bias, **options)
            loss, summary = out.loss * upstream, out.stats.summary()
        loss.backward()
    grads = {f"d{n}": None if case[n] is None else case[n].grad for n in names}
    values = {"loss": loss, "logprob": out.logprob, "entropy": out.entropy, "lse": out.lse}
    found = {n: digest(x) for n, x in (values | grads).items()}
    return found | {"summary": json.dumps({k: v.hex() for k, v in summary.items()})}


def record(wanted: list[str] | None) -> dict[str, dict]:
    """backend / dtype / case -> digests; those that a backend does not take are left out."""
    found = {}
    backends = [name for name, reason in available_backends().items() if reason is None]
    for backend in backends:
        for dtype in DTYPES:
            for name in wanted or [n for n in cases() if n != "logprobs fused"]:
                key = f"{backend} / {str(dtype).removeprefix('torch.')} / {name}"
                found[key] = one_case(name, backend, dtype)
    return found


def interpreted() -> dict[str, dict]:
    """The Triton backend in its interpreter, in a process of its own."""
    command = [sys.executable, "-W", "ignore", __file__, "interpreted", "-"]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    found = json.loads(done.stdout.splitlines()[-1])
    return {key: value for key, value in found.items() if key.startswith("triton")}


def compare(old: Path, new: Path) -> int:
    """Print every difference; the number of them."""
    a, b = (json.loads(path.read_text()) for path in (old, new))
    bad = []
    for key in sorted(a.keys() | b.keys()):
        for name in sorted((a.get(key) or {}).keys() | (b.get(key) or {}).keys()):
            pair = [(x.get(key) or {}).get(name, "missing") for x in (a, b)]
            if pair[0] != pair[1]:
                bad.append(f"{key} / {name}: {pair[0]} != {pair[1]}")
    print(
        "\n".join(bad) or f"the same numbers: {len(a)} cases, {sum(map(len, a.values()))} digests"
    )
    return len(bad)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["record", "compare", "interpreted"])
    parser.add_argument("files", type=Path, nargs="+")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.what == "compare":
        sys.exit(1 if compare(*options.files) else 0)
    if options.what == "interpreted":
        print(json.dumps(record(list(INTERPRETED))))
        return
    found = record(None) | interpreted()
    options.files[0].write_text(json.dumps(found, indent=1, sort_keys=True))
    print(f"{len(found)} cases recorded by {import_module('nsr_fast').__file__}")


if __name__ == "__main__":
    main()
