"""Surrogates of a whole sequence's ratio: GSPO and GMPO, in the two scalars a token allows.

Their gradient is that of a loss of the sequence, whose ratio depends on every token; so the ratio
comes from a pass before (objective/sequence.py) and is a constant here, and the sum of c over the
tokens, with w divided by the sequence's length, is the sequence's gradient exactly.
"""

from dataclasses import dataclass

import torch

from nsr_fast.kernels.tokens import TokenRows, TokenTerms
from nsr_fast.objective.ratio import RatioSurrogate, bounds, clips
from nsr_fast.objective.surrogate import Surrogate


@dataclass(frozen=True)
class Gspo(Surrogate):
    """-min(w s, w clip(s, 1 - epsilon, 1 + epsilon_high)), s = (pi(y) / pi_old(y))^(1/T).

        c = -w s where not clipped, else 0: all tokens of a sequence together

    Reads sequence_ratio = s (SequenceRatio("mean")). w must be the sequence mean's (w / T over the
    number of sequences), else long sequences count more. The clip is two orders narrower than
    PPO's, since a mean of log ratios hardly moves.
    Source: 2507.18071, equations 5 to 7 (14 and 15 for token weights); ranges of its section 5.
    """

    epsilon: float = 3e-4
    epsilon_high: float | None = 4e-4

    def reads(self) -> set[str]:
        return {"sequence_ratio"}

    def policy_term(self, rows: TokenRows) -> TokenTerms:
        w, ratio = rows.token_weight, rows.sequence_ratio
        low, high = bounds(self.epsilon, self.epsilon_high)
        is_clipped = clips(w, ratio, low, high)
        bounded = torch.where(is_clipped, ratio.clamp(low, high), ratio)
        c = torch.where(is_clipped, 0.0, -w * ratio)
        return TokenTerms(-w * bounded, c, is_clipped=is_clipped)


@dataclass(frozen=True)
class Gmpo(RatioSurrogate):
    """-w s, s the geometric mean of token ratios that were clipped one by one; c = 0 if clipped.

        s = exp(1/T sum_t l_t),  l_t = sign(w) min(sign(w) log r_t, sign(w) clip(log r_t))
        clip to [-epsilon, epsilon_high], in logs

    Reads sequence_ratio = s (GmpoRatio of objective/sequence.py, with the same epsilons) and
    old_logprob. w must be the sequence mean's and have one sign in a sequence.
    Source: 2507.20673, as in verl's geo_mean; (e^-0.4, e^0.4) is the paper's range.
    """

    epsilon: float = 0.4
    epsilon_high: float | None = None

    def reads(self) -> set[str]:
        return super().reads() | {"sequence_ratio"}

    def policy_term(self, rows: TokenRows) -> TokenTerms:
        w, log_ratio = rows.token_weight, self.log_ratio(rows)
        high = self.epsilon if self.epsilon_high is None else self.epsilon_high
        is_clipped = clips(w, log_ratio, -self.epsilon, high)
        loss = -w * rows.sequence_ratio
        return TokenTerms(loss, torch.where(is_clipped, 0.0, loss), is_clipped=is_clipped)
