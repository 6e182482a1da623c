"""Seeds of the sampling noise."""

from nsr_fast.types import sampling_seed


def test_seeds_differ_between_streams_rounds_and_prompts():
    seeds = {
        sampling_seed(0, stream, r, p)
        for stream in ("train", "eval")
        for r in range(20)
        for p in range(20)
    }
    assert len(seeds) == 800 and all(0 <= seed < 2**62 for seed in seeds)
    assert min(abs(a - b) for a in seeds for b in seeds if a != b) > 10_000
