"""The first round's update written out over full logits in float64, with torch's own AdamW."""

from dataclasses import dataclass

import torch
from transformers import AutoModelForCausalLM


@dataclass(frozen=True)
class Rules:
    """The settings that shape an update, under the names of the command line."""

    learning_rate: float = 1e-3
    warmup_steps: int = 0
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    minibatches: int = 1
    temperature: float = 1.0
    epsilon: float = 0.2
    epsilon_high: float | None = None
    importance_sampling_cap: float | None = None
    entropy_coef: float = 0.0
    positive_weight: float = 0.0  # the two of the objective; NSR by default
    negative_weight: float = -1.0


@dataclass(frozen=True)
class Update:
    """After the round: weights by name and first moments by position, means over the steps."""

    weights: dict[str, torch.Tensor]
    exp_avg: list[torch.Tensor]
    grad_norm: float
    entropy_trained: float
    trained_tokens: int


def reference_update(folder, scored, encode, rules, offset=lambda token: 0.0):
    """scored: records of a round in the order of groups; encode: prompt text -> token ids.

    offset(token) was added to the sampler's logprob of each token.
    """
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    by_sign = {True: rules.positive_weight, False: rules.negative_weight}
    trained = [
        (encode(record["prompt"]), record["token_ids"], by_sign[record["reward"] > 0])
        for record in scored
        if record["reward"] is not None and by_sign[record["reward"] > 0] != 0
    ]
    with torch.no_grad():
        old = [token_logprobs(model, p, c, rules.temperature)[0] for p, c, _ in trained]
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=rules.learning_rate, weight_decay=rules.weight_decay
    )
    norms, entropies = [], []
    bounds = [len(trained) * i // rules.minibatches for i in range(rules.minibatches + 1)]
    for step, (first, last) in enumerate(zip(bounds, bounds[1:])):
        losses = []
        for (prompt, completion, weight), before in zip(trained[first:last], old[first:last]):
            logprob, entropy = token_logprobs(model, prompt, completion, rules.temperature)
            term = weight * surrogate(logprob, before, weight, rules)
            if rules.importance_sampling_cap is not None:
                shift = torch.tensor([offset(token) for token in completion], dtype=torch.float64)
                term = term * (-shift).exp().clamp(max=rules.importance_sampling_cap)
            losses.append(-term - rules.entropy_coef * entropy)
            entropies.append(entropy.detach())
        optimizer.zero_grad()
        torch.cat(losses).mean().backward()
        parameters = list(model.parameters())
        norms.append(float(torch.nn.utils.clip_grad_norm_(parameters, rules.max_grad_norm)))
        share = min(1.0, (step + 1) / max(1, rules.warmup_steps))
        optimizer.param_groups[0]["lr"] = rules.learning_rate * share
        optimizer.step()
    entropy = torch.cat(entropies)
    return Update(
        weights={name: tensor.detach() for name, tensor in model.state_dict().items()},
        exp_avg={name: optimizer.state[p]["exp_avg"] for name, p in model.named_parameters()},
        grad_norm=sum(norms) / len(norms),
        entropy_trained=float(entropy.mean()),
        trained_tokens=entropy.numel(),
    )


def surrogate(logprob, before, weight, rules):
    """The ratio, clipped (PPO) when a round has several steps."""
    ratio = (logprob - before).exp()
    if rules.minibatches == 1:
        return ratio
    high = rules.epsilon if rules.epsilon_high is None else rules.epsilon_high
    clipped = ratio.clamp(1 - rules.epsilon, 1 + high)
    return torch.minimum(ratio, clipped) if weight > 0 else torch.maximum(ratio, clipped)


def token_logprobs(model, prompt, completion, temperature):
    """(logprob of every completion token, entropy where it was drawn)."""
    ids = torch.tensor([[*prompt, *completion]])
    logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
    table = (logits / temperature).log_softmax(-1)
    chosen = table.gather(1, torch.tensor(completion)[:, None])[:, 0]
    return chosen, -(table.exp() * table).sum(-1)
