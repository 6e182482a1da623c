"""Rows, templates and prompts."""

from nsr_fast.data.load import load_prompts
from nsr_fast.data.rows import read_rows
from nsr_fast.data.templates import TEMPLATES
from nsr_fast.types import Prompt

__all__ = ["TEMPLATES", "Prompt", "load_prompts", "read_rows"]
