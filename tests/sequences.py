"""Random training sequences for the tests."""

import torch

from nsr_fast.model.batch import TrainSequence


def make_sequences(lengths, vocab_size=259, prompt_length=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    sequences = []
    for index, length in enumerate(lengths):
        ids = torch.randint(3, vocab_size, (prompt_length + length,), generator=generator).tolist()
        sequences.append(
            TrainSequence(
                prompt_ids=tuple(ids[:prompt_length]),
                completion_ids=tuple(ids[prompt_length:]),
                weight=-1.0 if index % 2 else 0.25,
                sampler_logprob=tuple(-float(i) for i in range(length)),
            )
        )
    return sequences
