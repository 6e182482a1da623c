import json

import pytest
from tokenizers.processors import TemplateProcessing

from nsr_fast.config_groups import DataKeys
from nsr_fast.data import TEMPLATES, load_prompts, prompts_of_round, read_rows
from nsr_fast.errors import InputError
from tests.checkpoints import byte_tokenizer

BOXED = "Please reason step by step, and put your final answer within \\boxed{}."


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "a.jsonl"
    rows = [{"id": "one", "problem": "1+{1}?", "answer": "2"}, {"prompt": "2+2?", "answer": 4}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def load(data, template="none", tokenizer=None, *, limit=None, max_prompt_length=512):
    rows = data if isinstance(data, list) else read_rows(data)
    keys = DataKeys.model_construct(template=template, max_prompt_length=max_prompt_length)
    return load_prompts(rows, keys, tokenizer or byte_tokenizer(), limit=limit)


def test_prompts_keep_order_answers_and_columns(data):
    one, two = load(data)
    assert (one.id, one.text, one.answer) == ("one", "1+{1}?", "2")
    assert (two.id, two.answer, two.columns["prompt"]) == ("row-1", 4, "2+2?")
    assert byte_tokenizer().decode(one.token_ids) == one.text


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (
            "qwen",
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
            f"1+{{1}}?\n{BOXED}<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            "qwen3_no_thinking",
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
            f"1+{{1}}?\n{BOXED}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n",
        ),
        (
            "llama",
            "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
            "You are a helpful assistant.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"
            f"1+{{1}}?\n{BOXED}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        ("none", "1+{1}?"),
    ],
)
def test_templates_give_the_text_of_the_paper(data, template, text):
    assert template in TEMPLATES
    assert load(data, template)[0].text == text


def test_special_tokens_of_the_template_are_single_tokens(data):
    token_ids = load(data, "qwen")[0].token_ids
    assert token_ids[0] == 1 and token_ids.count(1) == 3 and token_ids.count(2) == 2


@pytest.mark.parametrize(("template", "count"), [("none", 1), ("qwen", 3), ("chat", 1)])
def test_what_a_tokenizer_puts_first_stands_there_once(data, template, count):
    """A tokenizer like Llama's, which puts its first token (here <|im_start|>) before any text."""
    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
    )
    tokenizer.chat_template = "<|im_start|>{% for m in messages %}{{ m.content }}{% endfor %}"
    assert tokenizer("x")["input_ids"][0] == 1 and tokenizer("<|im_start|>")["input_ids"] == [1, 1]
    prompts = load(data, template, tokenizer)
    for prompt in prompts:
        assert prompt.token_ids.count(1) == count
        assert prompt.token_ids[0] == 1


def test_chat_template_is_the_tokenizers(data):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    prompts = load(data, "chat", tokenizer)
    assert prompts[1].text == "[user] 2+2?\n[assistant]"
    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    rows = [{"id": "c", "prompt": chat, "answer": 1}]
    prompts = load(rows, "chat", tokenizer)
    assert prompts[0].text == "[system] s\n[user] u\n[assistant]"


def test_errors_name_template_and_row(data):
    with pytest.raises(InputError, match=r"template: expected one of .*qwen.*got 'qwn'"):
        load(data, "qwn")
    with pytest.raises(InputError, match="tokenizer with a chat template"):
        load(data, "chat")
    with pytest.raises(InputError, match="'one': prompt has 6 tokens, max_prompt_length is 4"):
        load(data, max_prompt_length=4, limit=1)
    with pytest.raises(InputError, match=r"\(1 more rows are too long\); raise .* to 6"):
        load(data, max_prompt_length=3)


def test_limit_takes_the_first_rows(data):
    assert [p.id for p in load(data, limit=1)] == ["one"]


def test_every_epoch_visits_each_prompt_once_in_another_order():
    prompts = list(range(10))
    rounds = [prompts_of_round(prompts, 4, 5, n) for n in range(1, 6)]
    drawn = [prompt for batch in rounds for prompt in batch]
    assert sorted(drawn[:10]) == prompts == sorted(drawn[10:])
    assert drawn[:10] != drawn[10:] != prompts
    assert prompts_of_round(prompts, 4, 5, 3) == rounds[2]  # whatever was asked for before
    assert len(prompts_of_round([1, 2], 5, 0, 1)) == 5  # a batch larger than the data
