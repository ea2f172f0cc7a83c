"""Which keys of a denoiser's attention belong to a phrase of the prompt, by the tokenizers' own character offsets."""

import re
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from helpers.conditions import locate

WHOLE_WORDS = 1_000  # a tokenizer of fewer entries was made of the words of its captions: it reads nothing else


class Tokens:
    """The text keys of a denoiser: sequences one after the other, each read by one or more encoders at the same places.

    sequences: the tokenizers of each sequence. lengths: keys of each sequence, the tokenizer's window where not stated;
    sequences without a tokenizer hold no words. total: all of them together.
    """

    def __init__(self, sequences: Sequence[Sequence[PreTrainedTokenizerBase]], lengths: Sequence[int] | None = None):
        self.sequences = [list(tokenizers) for tokenizers in sequences]
        self.lengths = list(lengths or (tokenizers[0].model_max_length for tokenizers in self.sequences))
        self.total = sum(self.lengths)

    def check(self, texts: Sequence[str]) -> None:
        """ValueError for a prompt that an encoder would silently cut: names the prompt, its tokens and the limit."""
        for text in texts:
            for _, tokenizer, limit in self._parts():
                count = len(tokenizer(text, truncation=False)["input_ids"])
                if count > limit:
                    raise ValueError(
                        f"the prompt {text!r} has {count} tokens (start and end included) but the text encoder reads "
                        f"{limit}: shorten it by at least {count - limit}"
                    )

    def of(self, prompt: str, phrase: str, start: int | None = None) -> list[int]:
        """The keys, 0 ... total - 1, of the tokens that cover `phrase`, in every sequence; a word of several tokens
        gives all of them.

        start: character where the phrase begins; None when it occurs once. ValueError when it is not there.
        """
        self.check([prompt])
        begin = locate(prompt, phrase, start)
        end, found = begin + len(phrase), []
        for first, tokenizer, _ in self._parts():
            offsets = tokenizer(prompt, truncation=False, return_offsets_mapping=True)["offset_mapping"]
            found += [first + i for i, (a, b) in enumerate(offsets) if a < b and a < end and b > begin]
        if not found:
            raise ValueError(f"no token of the prompt {prompt!r} covers the phrase {phrase!r}: name a word of it")
        return sorted(set(found))

    def runs(self, prompt: str, phrase: str, start: int | None = None) -> list[list[int]]:
        """`of`, one list of keys per sequence in which the phrase has any."""
        keys, edges = self.of(prompt, phrase, start), [sum(self.lengths[:n]) for n in range(len(self.lengths) + 1)]
        parts = [[key for key in keys if low <= key < high] for low, high in zip(edges, edges[1:], strict=False)]
        return [part for part in parts if part]

    def trailing(self, prompt: str, most: int) -> list[int]:
        """The first `most` keys of every sequence after the prompt's last word: end of text, then padding."""
        found = []
        for first, tokenizer, limit in self._parts():
            end = len(tokenizer(prompt)["input_ids"]) - 1
            found += range(first + end, first + min(end + most, limit))
        return sorted(set(found))

    def special(self) -> tuple[int, int]:
        """The first and the last key of the first sequence, which no word has."""
        return 0, self.lengths[0] - 1

    def unread(self, text: str) -> list[str]:
        """Words of the text that the encoders of a miniature have never read; of a large tokenizer, none."""
        tokenizer = self.sequences[0][0]
        if len(tokenizer) >= WHOLE_WORDS:
            return []
        words = dict.fromkeys(re.findall(r"[^\W_]+", text))
        return [word for word in words if len(tokenizer(word)["input_ids"]) > 3]  # start, the word, end

    def _parts(self):
        """(first key, tokenizer, keys) of every tokenizer."""
        first = 0
        for tokenizers, length in zip(self.sequences, self.lengths, strict=False):
            yield from ((first, tokenizer, length) for tokenizer in tokenizers)
            first += length
