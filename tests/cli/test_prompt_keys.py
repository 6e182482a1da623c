"""Every key of the data group, and what a run says of its prompts before it loads a model."""

from pathlib import Path

import pytest
import yaml
from cli.tiny_runs import completed, run_train, train_rows, watched_engine, write_policy
from tokenizers.processors import TemplateProcessing
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from nsr_fast.cli import main
from nsr_fast.model.load import stop_token_ids
from tests.checkpoints import byte_tokenizer, write_checkpoint

ROLES = "{% for m in messages %}<|im_start|>{{ m.role }}: {{ m.content }}<|im_end|>\n{% endfor %}"
CHAT = (
    ROLES + "{% if add_generation_prompt %}<|im_start|>assistant: "
    "{% if enable_thinking is defined and not enable_thinking %}(quick){% endif %}{% endif %}"
)
LONG = {"max_prompt_length": 400}


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return write_policy(tmp_path_factory.mktemp("policy"))


def with_tokenizer(folder, change):
    """The policy's checkpoint with a changed tokenizer."""
    write_policy(folder)
    tokenizer = byte_tokenizer()
    change(tokenizer)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def chat_policy(tmp_path_factory):
    def change(tokenizer):
        tokenizer.chat_template = CHAT

    return with_tokenizer(tmp_path_factory.mktemp("chat"), change)


def read_by_the_model(folder, model, **settings):
    """The texts and token ids that the engine was given, by row."""
    with watched_engine() as watched:
        completed(run_train(folder, model, **settings))
    prompts = watched.calls[0].prompts
    return {p.id: (byte_tokenizer().decode(p.token_ids), list(p.token_ids)) for p in prompts}


def chat_row(*turns, name="t0"):
    messages = [{"role": role, "content": content} for role, content in turns]
    return {"id": name, "prompt": messages, "answer": "1"}


def refused(run, *parts):
    assert run.code == 2, run.out
    assert len(run.err.strip().splitlines()) == 1
    for part in parts:
        assert part in run.err


@pytest.mark.parametrize(("template", "stop"), [("qwen", 2), ("qwen3_no_thinking", 2), ("chat", 1)])
def test_the_turn_end_of_the_template_stops(tmp_path, template, stop):
    """Config, generation config and tokenizer all say <|endoftext|>, id 0."""
    folder = write_checkpoint(tmp_path / "model", "qwen2")
    config = AutoConfig.from_pretrained(folder)
    config.eos_token_id = 0
    config.save_pretrained(folder)
    GenerationConfig(eos_token_id=0).save_pretrained(folder)
    tokenizer = byte_tokenizer()
    tokenizer.eos_token = "<|endoftext|>"
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}<|im_start|>\n{% endfor %}"
    tokenizer.save_pretrained(folder)

    def ends(call, stream):
        assert all(r.finish_reason != "stop" or r.token_ids[-1] in (0, stop) for *_, r in stream)
        return stream

    with watched_engine(ends):
        run = completed(run_train(tmp_path / "a", folder, template=template, **LONG))
    text = byte_tokenizer().decode([stop])
    assert f"stop tokens: 0 '<|endoftext|>', {stop} '{text}'" in run.out
    assert stop_token_ids(str(folder), tokenizer) == [0]


@pytest.mark.parametrize("template", ["qwen", "qwen3_no_thinking", "llama", "chat"])
def test_a_system_turn_stands_instead_of_the_default(chat_policy, tmp_path, template):
    rows = [
        chat_row(("system", "Antworte kurz."), ("user", "1+1?")),
        {"id": "t1", "prompt": "2+2?", "answer": "4"},
    ]
    read = read_by_the_model(tmp_path / "a", chat_policy, template=template, rows=rows, **LONG)
    assert "Antworte kurz." in read["t0"][0] and "helpful" not in read["t0"][0]
    assert ("helpful" in read["t1"][0]) == (template != "chat")
    keys = {"template": template, "rows": rows, "system_prompt": "Sei genau.", **LONG}
    read = read_by_the_model(tmp_path / "b", chat_policy, **keys)
    assert "Antworte kurz." in read["t0"][0] and "genau" not in read["t0"][0]
    assert "Sei genau." in read["t1"][0] and "helpful" not in read["t1"][0]


def test_template_none_drops_no_turn(policy, tmp_path):
    rows = [chat_row(("system", "s"), ("user", "u"))]
    refused(run_train(tmp_path / "a", policy, rows=rows), "'t0'", "system, user", "template: none")
    refused(run_train(tmp_path / "b", policy, system_prompt="s"), "system_prompt: needs a template")


@pytest.mark.parametrize(
    ("template", "end"),
    [
        ("qwen", "boxed{}.<|im_end|>\n<|im_start|>assistant\nLet x ="),
        ("qwen3_no_thinking", "<|im_start|>assistant\n<think>\n\n</think>\nLet x ="),
        ("llama", "<|start_header_id|>assistant<|end_header_id|>\n\nLet x ="),
        ("chat", "<|im_end|>\n<|im_start|>assistant: Let x ="),
    ],
)
def test_a_last_turn_of_the_assistant_is_continued(chat_policy, tmp_path, template, end):
    rows = [chat_row(("user", "solve"), ("assistant", "Let x ="))]
    read = read_by_the_model(tmp_path, chat_policy, template=template, rows=rows, **LONG)
    assert read["t0"][0].endswith(end)
    assert read["t0"][0].removesuffix(end).count("assistant\n") == 0


def test_turns_between_are_kept_and_the_last_question_gets_the_instruction(policy, tmp_path):
    rows = [chat_row(("user", "1+1?"), ("assistant", "2"), ("user", "2+2?"))]
    text, _ = read_by_the_model(tmp_path, policy, template="qwen", rows=rows, **LONG)["t0"]
    assert "user\n1+1?<|im_end|>\n<|im_start|>assistant\n2<|im_end|>" in text
    assert text.count("Please reason") == 1 and "user\n2+2?\nPlease reason" in text
    rows = [chat_row(("tool", "x"), ("user", "2+2?"))]
    run = run_train(tmp_path / "b", policy, template="qwen", rows=rows, **LONG)
    refused(run, "tool, user", "template: chat")


def test_chat_template_kwargs(chat_policy, tmp_path):
    keys = {"template": "chat", **LONG}
    plain = read_by_the_model(tmp_path / "a", chat_policy, **keys)["t0"][0]
    told = {"chat_template_kwargs": '{"enable_thinking": false}', **keys}
    quick = read_by_the_model(tmp_path / "b", chat_policy, **told)["t0"][0]
    assert quick == plain + "(quick)"
    kept = yaml.safe_load((tmp_path / "b/run/config.yaml").read_text())
    assert kept["chat_template_kwargs"] == {"enable_thinking": False}
    (tmp_path / "c.yaml").write_text("chat_template_kwargs: {enable_thinking: false}\n")
    from_file = read_by_the_model(tmp_path / "c", chat_policy, config=tmp_path / "c.yaml", **keys)
    assert from_file["t0"][0] == quick
    bad = {
        '{"enable_thinkin": false}': "enable_thinkin: this tokenizer's chat template never reads",
        '{"messages": []}': "messages: the run sets it",
        "{oops": "expected JSON",
        "[1]": "chat_template_kwargs: expected",
    }
    for number, (value, part) in enumerate(bad.items()):
        run = run_train(tmp_path / f"bad{number}", chat_policy, chat_template_kwargs=value, **keys)
        refused(run, part)
    told["template"] = "qwen"
    refused(run_train(tmp_path / "q", chat_policy, **told), "needs template: chat")


@pytest.mark.parametrize("template", ["none", "llama", "qwen", "chat", "chat-without"])
def test_a_tokenizer_with_begin_of_text_gives_it_once(tmp_path, template):
    """Like Llama's: the tokenizer puts <|begin_of_text|> first, and so does its chat template."""

    def change(tokenizer):
        tokenizer.add_special_tokens({"bos_token": "<|begin_of_text|>"})
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 259)]
        )
        start = "" if template == "chat-without" else "{{ bos_token }}"
        tokenizer.chat_template = f"{start}{CHAT}"

    folder = with_tokenizer(tmp_path / "model", change)
    config = AutoConfig.from_pretrained(folder)
    write_with_rows(folder, config, 300)
    keys = {"template": template.partition("-")[0], **LONG}
    with watched_engine() as watched:
        completed(run_train(tmp_path / "a", folder, **keys))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for prompt in watched.calls[0].prompts:
        assert prompt.token_ids[0] == 259 and prompt.token_ids.count(259) == 1
        text = prompt.text.removeprefix("<|begin_of_text|>")
        assert list(prompt.token_ids) == tokenizer(text)["input_ids"]


def write_with_rows(folder, config, rows):
    """The checkpoint's weights again, random, with so many rows of the vocabulary."""
    from transformers import AutoModelForCausalLM

    config.vocab_size = rows
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)


def test_columns_of_other_names(policy, tmp_path):
    rows = [{"id": "t0", "ask": "1+1=", "extra": {"gold": "2"}}]
    refused(run_train(tmp_path / "a", policy, rows=rows), "no prompt", "prompt_column", "'ask'")
    keys = {"prompt_column": "ask", "answer_column": "extra.gold", "rows": rows}
    run = completed(run_train(tmp_path / "b", policy, **keys))
    assert {r["prompt"] for r in run.trained()} == {"1+1="}
    refused(
        run_train(tmp_path / "c", policy, **{**keys, "answer_column": "gold"}),
        "answer_column: no column 'gold'",
    )


def test_overlong_prompts(policy, tmp_path):
    rows = [*train_rows(3), {"id": "t8", "problem": "x" * 41, "answer": "1"}]
    refused(run_train(tmp_path / "a", policy, rows=rows), "'t8'", "41", "overlong_prompts: drop")
    run = completed(run_train(tmp_path / "b", policy, rows=rows, overlong_prompts="drop"))
    assert "data: 1 of 4 prompts are longer than max_prompt_length 40 and left out" in run.out
    assert "t8" not in {record["id"] for record in run.trained()}
    keys = {"eval_rows": [{**row, "id": f"e{i}"} for i, row in enumerate(rows)]}
    run = completed(run_train(tmp_path / "c", policy, overlong_prompts="drop", **keys))
    assert "eval_data: 1 of 4 prompts" in run.out
    assert run.evaluations[0]["num_prompts"] == 3
    refused(run_train(tmp_path / "d", policy, rows=rows[3:], overlong_prompts="drop"), "to 41")


def test_the_home_directory_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_policy(tmp_path / "model")
    run = completed(run_train(tmp_path / "a", "~/model", output_dir="~/out"))
    assert (tmp_path / "out/metrics.jsonl").is_file() and not run.folder.exists()
    assert not Path("~").exists()


def test_what_a_run_shows_first(policy, tmp_path):
    rows = train_rows(3)
    run = completed(run_train(tmp_path, policy, rows=rows, prompts_per_round=8, dry_run="true"))
    assert "prompt t0: '0+0='\n  its 4 tokens: 18='0' 13='+' 18='0' 31='='\n" in run.out
    assert "stop tokens: 2 '<|im_end|>', 60 'Z'" in run.out
    line = (
        "a round: 8 prompts x 4 generations = 32 rollouts; the data has 3 prompts, so they repeat"
    )
    assert line in run.out
    assert "vocabulary" not in run.out


def test_a_template_of_another_family_is_named(policy, tmp_path):
    run = completed(run_train(tmp_path, policy, template="llama", dry_run="true", **LONG))
    assert (
        "template: llama writes <|eot_id|>, which this tokenizer splits into 10 tokens" in run.out
    )


def test_a_tokenizer_of_another_model_is_refused(tmp_path, policy):
    def change(tokenizer):
        tokenizer.add_tokens(["0+0="])

    folder = with_tokenizer(tmp_path / "model", change)
    refused(run_train(tmp_path / "a", folder), "token 259", "'t0'", "vocab_size 259")


def test_rows_without_any_answer_for_a_function_of_the_user(policy, tmp_path):
    rows = [{"id": f"t{i}", "question": f"{i}?"} for i in range(3)]
    assert completed(run_train(tmp_path / "a", policy, rows=rows)).metrics
    run = run_train(tmp_path / "b", policy, rows=rows, reward="math", dry_run="true")
    refused(run, "no answer", "answer_column")


def test_help_names_the_keys(capsys):
    assert main(["train", "--help"]) == 0
    out = capsys.readouterr().out
    for key in ("system_prompt", "chat_template_kwargs", "prompt_column", "overlong_prompts"):
        assert f"--{key}" in out
