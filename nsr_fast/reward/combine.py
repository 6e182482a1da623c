"""Several reward functions as one: the weighted sum of those that scored a completion."""

import asyncio
import inspect
from collections.abc import Callable, Sequence

from nsr_fast.reward.score import (
    RewardFunction,
    accepted_arguments,
    call_reward,
    checked_rewards,
    reward_name,
)


class CombinedReward:
    """reward = sum_i weights[i] * f_i over the functions that do not return None.

    A completion that no function scores is unscored. Async functions run side by side; every
    function's result is checked under its own name.
    """

    def __init__(self, functions: Sequence[RewardFunction], weights: Sequence[float]) -> None:
        if len(functions) != len(weights) or not functions:
            raise ValueError(
                f"weights: expected one for each of {len(functions)} functions, got {len(weights)}"
            )
        self._functions, self._weights = list(functions), list(weights)
        self.__qualname__ = " + ".join(map(reward_name, functions))

    async def __call__(self, **arguments: list) -> list[float | None]:
        """The sums; arguments are those of nsr_fast.reward.score.score_groups."""
        calls = [self._checked(function, arguments) for function in self._functions]
        columns = await asyncio.gather(*calls)
        return [self._sum(rewards) for rewards in zip(*columns, strict=True)]

    def statistics(self) -> dict[str, float]:
        """Metrics of the functions that have any."""
        merged: dict[str, float] = {}
        for function in self._functions:
            merged |= getattr(function, "statistics", dict)()
        return merged

    def submit(self, **arguments: list) -> Callable[[], list[float | None]]:
        """Starts the functions with a `submit`; the call of what is returned runs the others."""
        started = [
            function.submit(**accepted_arguments(function, arguments))
            if hasattr(function, "submit")
            else None
            for function in self._functions
        ]

        def collect() -> list[float | None]:
            columns = [
                call_reward(function, arguments)
                if collect_one is None
                else checked_rewards(collect_one(), arguments["id"], reward_name(function))
                for function, collect_one in zip(self._functions, started)
            ]
            return [self._sum(rewards) for rewards in zip(*columns, strict=True)]

        return collect

    async def _checked(
        self, function: RewardFunction, arguments: dict[str, list]
    ) -> list[float | None]:
        rewards = function(**accepted_arguments(function, arguments))
        if inspect.isawaitable(rewards):
            rewards = await rewards
        return checked_rewards(rewards, arguments["id"], reward_name(function))

    def _sum(self, rewards: tuple[float | None, ...]) -> float | None:
        scored = [w * r for w, r in zip(self._weights, rewards) if r is not None]
        return sum(scored) if scored else None
