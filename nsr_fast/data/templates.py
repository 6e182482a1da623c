"""Prompt templates: the paper's texts (arXiv 2506.01347, reference code), the tokenizer's, or none.

qwen               ChatML with the boxed-answer instruction
qwen3_no_thinking  the same, opened after an empty think block
llama              Llama-3 headers, same system and user text, its own begin-of-text token
chat               the tokenizer's chat template on the problem alone
none               the problem as it is

A system turn of the row stands first; without one, the setting system_prompt; without that, what
the template has. A last turn of the assistant stays open and is continued.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from nsr_fast.config_groups import DataKeys
from nsr_fast.errors import InputError

_SYSTEM = "You are a helpful assistant."
_INSTRUCTION = "\nPlease reason step by step, and put your final answer within \\boxed{}."
_PROBE = "nsr-fast-probe"


@dataclass(frozen=True, slots=True)
class _Layout:
    """How a built-in template writes turns: header, content, end."""

    header: str
    end: str  # its first line is the token that ends a turn
    start: str = ""
    opening: str = ""  # behind the header of the completion

    @property
    def turn_end(self) -> str:
        return self.end.strip()

    def text(self, messages: Sequence[dict]) -> str:
        *turns, last = messages
        if last["role"] != "assistant":
            turns, last = messages, {"content": ""}
        closed = "".join(self._header(m["role"]) + m["content"] + self.end for m in turns)
        return f"{self.start}{closed}{self._header('assistant')}{self.opening}{last['content']}"

    def _header(self, role: str) -> str:
        return self.header.replace("ROLE", role)


_CHATML = {"header": "<|im_start|>ROLE\n", "end": "<|im_end|>\n"}
_LAYOUTS = {
    "qwen": _Layout(**_CHATML),
    "qwen3_no_thinking": _Layout(**_CHATML, opening="<think>\n\n</think>\n"),
    "llama": _Layout(
        header="<|start_header_id|>ROLE<|end_header_id|>\n\n",
        end="<|eot_id|>",
        start="<|begin_of_text|>",
    ),
}

TEMPLATES = (*_LAYOUTS, "none", "chat")


def templated_text(keys: DataKeys, prompt: str | list[dict], tokenizer) -> str:
    """What the model reads for `prompt`; `tokenizer` is used by "chat" only.

    Raises InputError: a template or a role that is not known, what "chat" or "none" cannot take
    """
    if keys.template not in TEMPLATES:
        expected = ", ".join(TEMPLATES)
        raise InputError(f"template: expected one of {expected}, got {keys.template!r}")
    if keys.template == "none":
        return _bare_text(prompt)
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    if keys.system_prompt is not None and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": keys.system_prompt}, *messages]
    if keys.template == "chat":
        return _chat_text(messages, tokenizer, keys.chat_template_kwargs or {})
    return _built_in_text(_LAYOUTS[keys.template], messages, keys.template)


def turn_end_ids(keys: DataKeys, tokenizer) -> list[int]:
    """The token with which the template ends a turn of the assistant; [] where it has none."""
    if keys.template in _LAYOUTS:
        ids = _ids(tokenizer, _LAYOUTS[keys.template].turn_end)
        return ids if len(ids) == 1 else []
    if keys.template == "none" or not getattr(tokenizer, "chat_template", None):
        return []
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _PROBE}]
    try:
        text = tokenizer.apply_chat_template(
            turns, tokenize=False, **(keys.chat_template_kwargs or {})
        )
    except Exception:  # a template that refuses these turns tells nothing about its end
        return []
    _, found, after = text.rpartition(_PROBE)
    first = _ids(tokenizer, after.strip())[:1] if found else []
    return [i for i in first if i in tokenizer.added_tokens_decoder]


def template_warnings(keys: DataKeys, tokenizer) -> list[str]:
    """One line where a built-in template writes a turn end that the tokenizer does not know."""
    layout = _LAYOUTS.get(keys.template)
    if layout is None or turn_end_ids(keys, tokenizer):
        return []
    end = layout.turn_end
    return [
        f"template: {keys.template} writes {end}, which this tokenizer splits into "
        f"{len(_ids(tokenizer, end))} tokens: it cannot end a completion; is template: chat meant?"
    ]


def _ids(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"] if text else []


def _bare_text(prompt: str | list[dict]) -> str:
    if isinstance(prompt, str):
        return prompt
    raise InputError(
        "template: none takes a text or one user message and would drop the roles of "
        f"{', '.join(m['role'] for m in prompt)}; use another template, as chat"
    )


def _built_in_text(layout: _Layout, messages: list[dict], template: str) -> str:
    """With the instruction behind the last user turn."""
    if messages[0]["role"] != "system":
        messages = [{"role": "system", "content": _SYSTEM}, *messages]
    roles = [message["role"] for message in messages]
    if "user" not in roles or not set(roles[1:]) <= {"user", "assistant"}:
        raise InputError(
            f"template: {template} takes a system turn, then turns of user and assistant, got "
            f"{', '.join(roles)}; use template: chat"
        )
    asked = max(index for index, role in enumerate(roles) if role == "user")
    turns = [
        {**turn, "content": turn["content"] + _INSTRUCTION} if index == asked else turn
        for index, turn in enumerate(messages)
    ]
    return layout.text(turns)


def _chat_text(messages: list[dict], tokenizer, options: dict) -> str:
    if not getattr(tokenizer, "chat_template", None):
        raise InputError(
            "template: chat needs a tokenizer with a chat template and this one has none; "
            f"use one of {', '.join(name for name in TEMPLATES if name != 'chat')}"
        )
    _check_options(tokenizer, options)
    is_open = messages[-1]["role"] == "assistant"
    try:
        return tokenizer.apply_chat_template(
            messages,
            tokenize=False,
            add_generation_prompt=not is_open,
            continue_final_message=is_open,
            **options,
        )
    except Exception as error:  # a template is code of its author
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        roles = ", ".join(message["role"] for message in messages)
        raise InputError(
            f"template: chat: the tokenizer's chat template refuses turns of {roles}: {reason}"
        ) from None


def _check_options(tokenizer, options: dict) -> None:
    """Every one of chat_template_kwargs is read by the template, and is not ours to set."""
    template = tokenizer.chat_template
    text = template if isinstance(template, str) else " ".join(template.values())
    for name in options:
        is_ours = name in ("messages", "conversation", "add_generation_prompt")
        if is_ours or not re.search(rf"\b{re.escape(str(name))}\b", text):
            why = "the run sets it" if is_ours else "this tokenizer's chat template never reads it"
            raise InputError(f"chat_template_kwargs: {name}: {why}; remove it")
