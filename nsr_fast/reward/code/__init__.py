"""Programming problems: a completion's program against hidden tests, in a sandbox."""

from nsr_fast.reward.code.reward import CodeReward, verify_code

__all__ = ["CodeReward", "verify_code"]
