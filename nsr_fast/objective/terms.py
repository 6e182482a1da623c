"""Token-local losses on [C] vectors: the table of them, and where to import them from.

A surrogate is any callable TokenRows -> TokenTerms (nsr_fast/kernels/tokens.py); it sees one chunk
of active rows after their logits are complete and returns each row's loss, c = dloss/dlogprob and,
when not zero, e = dloss/dentropy. With w = token_weight and r = exp(logprob - old_logprob):

    None              -w logprob                          REINFORCE, PSR, NSR, W-REINFORCE
    PolicyGradient()  the same, open to the corrections below
    PpoClip()         -min(w r, w clip(r, 1 - epsilon, 1 + epsilon_high)); a clipped row gets c = 0;
                      dual_clip bounds the loss of w < 0 by -w dual_clip. Reads old_logprob
    Cispo()           -w clip(r, ...) logprob, the clipped ratio held constant. Reads old_logprob
    Sapo()            -w (4 / tau) sigmoid(tau (r - 1)). Reads old_logprob
    Dppo()            -w min(r, 20) logprob, the ratio held constant, dropped where the probability
                      itself moved too far in the weight's direction. Reads old_logprob
    Topr()            -w logprob, times clip(ratio, 0, 1) where w < 0. Reads sequence_ratio
    KlCov()           -w r + |log r| on marked tokens. Reads old_logprob, mark
    Gspo(), Gmpo()    sequence ratios, clipped as a whole or token by token. Read sequence_ratio
    and in each       sampler_cap: times min(exp(policy - sampler), sampler_cap), held constant;
                      policy = old_logprob, or logprob without one. Reads sampler_logprob
                      kl="k1"|"k2"|"k3", kl_coef: plus kl_coef times it. Reads ref_logprob
                      entropy_coef: minus it times the entropy
                      rules: factors of w from the token's own numbers (objective/rules.py)

    linear_policy_loss(hidden, weight, target, w, old_logprob=old,
                       surrogate=PpoClip(epsilon=0.2, epsilon_high=0.28))

Factors, scale and the clamp of log ratios: nsr_fast/objective/surrogate.py. What needs the whole
sequence or minibatch first: nsr_fast/objective/sequence.py. Rows of weight 0 are dropped before any
of this. Sources stand at each class; KL estimators: joschu.net/blog/kl-approx.html.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from nsr_fast.objective.corrections import IcePop, OffPolicyNegatives, SequenceMask
from nsr_fast.objective.preparation import Preparation
from nsr_fast.objective.ratio import Cispo, Dppo, KlCov, PpoClip, RatioSurrogate, Sapo, Topr
from nsr_fast.objective.rules import EntropyScale, MinEntropy, PolarTokens, SilenceSpurious
from nsr_fast.objective.sequence import (
    ClipCov,
    GmpoRatio,
    KlCovMarks,
    SequenceRatio,
    SpuriousTokens,
    TopEntropy,
    ZeroVariance,
)
from nsr_fast.objective.sequence_ratio import Gmpo, Gspo
from nsr_fast.objective.surrogate import PolicyGradient, Surrogate, TokenRule

SURROGATES: Mapping[str, Callable[..., Surrogate]] = MappingProxyType(
    {
        "policy_gradient": PolicyGradient,
        "ppo_clip": PpoClip,
        "cispo": Cispo,
        "sapo": Sapo,
        "dppo": Dppo,
        "topr": Topr,
        "kl_cov": KlCov,
        "gspo": Gspo,
        "gmpo": Gmpo,
    }
)
RULES: Mapping[str, Callable[..., TokenRule]] = MappingProxyType(
    {
        "icepop": IcePop,
        "entropy_scale": EntropyScale,
        "min_entropy": MinEntropy,
        "polar_tokens": PolarTokens,
        "silence_spurious": SilenceSpurious,
    }
)
PREPARATIONS: Mapping[str, Callable[..., Preparation]] = MappingProxyType(
    {
        "sequence_ratio": SequenceRatio,
        "gmpo_ratio": GmpoRatio,
        "clip_cov": ClipCov,
        "kl_cov_marks": KlCovMarks,
        "top_entropy": TopEntropy,
        "spurious_tokens": SpuriousTokens,
        "zero_variance": ZeroVariance,
        "sequence_mask": SequenceMask,
        "off_policy_negatives": OffPolicyNegatives,
    }
)

__all__ = [
    "PREPARATIONS",
    "RULES",
    "SURROGATES",
    "Cispo",
    "Dppo",
    "Gmpo",
    "Gspo",
    "KlCov",
    "PolicyGradient",
    "PpoClip",
    "RatioSurrogate",
    "Sapo",
    "Surrogate",
    "TokenRule",
    "Topr",
]
