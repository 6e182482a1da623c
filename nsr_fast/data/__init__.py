"""Rows, templates and prompts."""

from nsr_fast.data.prompts import load_prompts, prompts_of_round
from nsr_fast.data.rows import read_rows
from nsr_fast.data.templates import TEMPLATES

__all__ = ["TEMPLATES", "load_prompts", "prompts_of_round", "read_rows"]
