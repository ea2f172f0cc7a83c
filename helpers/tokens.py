"""Which tokens of the text encoder belong to a phrase of the prompt, by the tokenizer's own character offsets."""

from transformers import PreTrainedTokenizerBase


def check_window(tokenizer: PreTrainedTokenizerBase, prompt: str) -> None:
    """ValueError for a prompt that the text encoder would silently cut: names the prompt, its tokens and the limit."""
    count, limit = len(tokenizer(prompt, truncation=False)["input_ids"]), tokenizer.model_max_length
    if count > limit:
        raise ValueError(
            f"the prompt {prompt!r} has {count} tokens (start and end included) but the text encoder reads {limit}: "
            f"shorten it by at least {count - limit}"
        )


def phrase_tokens(tokenizer: PreTrainedTokenizerBase, prompt: str, phrase: str, start: int | None = None) -> list[int]:
    """Positions, in the encoded prompt, of the tokens that cover `phrase`; the start token is position 0.

    start: character where the phrase begins; None when it occurs once. A word of several tokens gives all of them.
    """
    check_window(tokenizer, prompt)
    begin = locate(prompt, phrase, start)
    end = begin + len(phrase)
    offsets = tokenizer(prompt, truncation=False, return_offsets_mapping=True)["offset_mapping"]
    found = [i for i, (a, b) in enumerate(offsets) if a < b and a < end and b > begin]
    if not found:
        raise ValueError(f"no token of the prompt {prompt!r} covers the phrase {phrase!r}: name a word of it")
    return found


def locate(prompt: str, phrase: str, start: int | None = None) -> int:
    """The character where `phrase` begins in `prompt`, as whole words; ValueError when absent or ambiguous."""
    starts = [i for i in range(len(prompt)) if prompt.startswith(phrase, i) and _whole_words(prompt, i, len(phrase))]
    if not starts:
        raise ValueError(f"the phrase {phrase!r} is not in the prompt {prompt!r}: copy it from the prompt, whole words")
    if start is None and len(starts) > 1:
        raise ValueError(
            f"the phrase {phrase!r} occurs {len(starts)} times in the prompt {prompt!r}: "
            f"say which one with start={' or '.join(map(str, starts))}"
        )
    if start is not None and start not in starts:
        raise ValueError(
            f"the phrase {phrase!r} does not begin at start={start} of the prompt {prompt!r}: "
            f"use start={' or '.join(map(str, starts))}"
        )
    return starts[0] if start is None else start


def _whole_words(prompt: str, start: int, length: int) -> bool:
    around = prompt[start - 1 : start] + prompt[start + length : start + length + 1]
    return not any(c.isalnum() for c in around)
