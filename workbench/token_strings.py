"""Single tokens as strings: with the blank before a word, and a name for what is no text by itself.

A tokenizer's `decode` of one id drops the blank that begins a word in many tokenizers, and gives a replacement sign for
a byte that is part of a character; both would make different tokens look alike.
Read it as: ` of` begins a word, `of` goes on with one; `<0xE2>` is a byte, `</s>` a special token.
Does not show: how tokens join; decode them together for that.
"""

from collections.abc import Iterable, Mapping

from transformers import PreTrainedTokenizerBase

BLANKS = ("▁", "Ġ")
"""How SentencePiece and byte-level tokenizers write the blank before a word."""

LOST = "\ufffd"


def string_of(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    """One token as a string, never empty."""
    piece = tokenizer.convert_ids_to_tokens(token)
    text = str(tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False))
    if not isinstance(piece, str):  # unembeddings are often longer than the vocabulary
        return text or f"<{token}>"
    if not text or LOST in text:
        return piece or f"<{token}>"
    return f" {text}" if piece.startswith(BLANKS) and not text[0].isspace() else text


def strings_of(tokenizer: PreTrainedTokenizerBase, tokens: Iterable[int]) -> list[str]:
    """Tokens in order as strings."""
    return [string_of(tokenizer, token) for token in tokens]


def vocabulary_of(tokenizer: PreTrainedTokenizerBase, tokens: Iterable[int]) -> Mapping[str, str]:
    """Id, as text, -> string, for every token once: what a trace that holds ids needs to be read without a model."""
    return {str(token): string_of(tokenizer, token) for token in sorted(set(tokens))}
