"""The differentiable FlashAttention-4 that vLLM's CUDA wheels carry (a private path of theirs)."""

from collections.abc import Callable


def flash_attn_4() -> Callable:
    """Causal attention over packed sequences; the signature is that of nsr_fast.train.varlen."""
    from vllm.vllm_flash_attn.cute.interface import flash_attn_varlen_func

    def attend(query, key, value, bounds, longest, scale):
        result = flash_attn_varlen_func(
            query,
            key,
            value,
            cu_seqlens_q=bounds,
            cu_seqlens_k=bounds,
            max_seqlen_q=longest,
            max_seqlen_k=longest,
            softmax_scale=scale,
            causal=True,
        )
        return result[0] if isinstance(result, tuple) else result

    return attend
