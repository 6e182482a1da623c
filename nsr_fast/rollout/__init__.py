"""Engines: token ids in, sampled completions with logprobs out, on the trainer's own weights."""
