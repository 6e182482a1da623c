"""Objectives: weights of rollouts, terms of tokens, denominators, presets."""

from nsr_fast.objective.objective import Objective, objective_of

__all__ = ["Objective", "objective_of"]
