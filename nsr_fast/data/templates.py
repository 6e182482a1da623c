"""Prompt templates: the paper's texts (arXiv 2506.01347, reference code), the tokenizer's, or none.

qwen               ChatML with the boxed-answer instruction
qwen3_no_thinking  the same, opened after an empty think block
llama              Llama-3 headers, same system and user text, its own begin-of-text token
chat               the tokenizer's chat template on the problem alone
none               the problem as it is
"""

from nsr_fast.errors import InputError

_SYSTEM = "You are a helpful assistant."
_USER = "{input}\nPlease reason step by step, and put your final answer within \\boxed{}."
_QWEN = (
    f"<|im_start|>system\n{_SYSTEM}<|im_end|>\n"
    f"<|im_start|>user\n{_USER}<|im_end|>\n<|im_start|>assistant\n"
)
_LLAMA = (
    f"<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n{_SYSTEM}<|eot_id|>"
    f"<|start_header_id|>user<|end_header_id|>\n\n{_USER}<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
)
_TEXTS = {
    "qwen": _QWEN,
    "qwen3_no_thinking": _QWEN + "<think>\n\n</think>\n",
    "llama": _LLAMA,
    "none": "{input}",
}

TEMPLATES = (*_TEXTS, "chat")


def check_template(template: str) -> None:
    """Raises InputError unless `template` is one of TEMPLATES."""
    if template not in TEMPLATES:
        raise InputError(f"template: expected one of {', '.join(TEMPLATES)}, got {template!r}")


def templated_text(template: str, prompt: str | list[dict], tokenizer) -> str:
    """What the model reads for `prompt`; `tokenizer` is used by "chat" only."""
    check_template(template)
    if template == "chat":
        return _chat_text(prompt, tokenizer)
    return _TEXTS[template].replace("{input}", _problem_text(prompt, template))


def _problem_text(prompt: str | list[dict], template: str) -> str:
    if isinstance(prompt, str):
        return prompt
    turns = [m["content"] for m in prompt if m["role"] != "system"]
    if len(turns) != 1:
        raise InputError(
            f"template: {template} takes one user message, got {len(turns)} turns; "
            "use template: chat"
        )
    return turns[0]


def _chat_text(prompt: str | list[dict], tokenizer) -> str:
    if not getattr(tokenizer, "chat_template", None):
        raise InputError(
            "template: chat needs a tokenizer with a chat template and this one has none; "
            f"use one of {', '.join(_TEXTS)}"
        )
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
