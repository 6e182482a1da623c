"""Tokenizer of the Countdown base policy: one token per whole number 0..99 and per sign.

The ids are fixed: 0 `<eos>`, 1 `<unk>`, then the signs, then the numbers in order. transformers
replaces the stored pre-tokenizer of every Qwen2 checkpoint by Qwen2's own, which cuts numbers into
digits; numbers of two digits are therefore added tokens, which are matched before it.
"""

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

SPECIAL = ("<eos>", "<unk>")
SIGNS = ("+", "-", "*", "/", "=", ",", ">", ":")
NUMBERS_END = 100


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer as a transformers object; `save_pretrained` writes tokenizer.json."""
    tokens = [*SPECIAL, *SIGNS, *(str(digit) for digit in range(10))]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    numbers = [str(number) for number in range(10, NUMBERS_END)]
    tokenizer.add_tokens([AddedToken(number, normalized=False) for number in numbers])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<eos>",
        pad_token="<eos>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
        model_max_length=64,
    )
