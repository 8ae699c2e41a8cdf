"""A word tokenizer for the embedded models: known words are one token, unknown ones fall back to characters.

Read it as: `"▁violin"` is a word, `"▁Ked"` + `"lix"` a name of two pieces, `"▁"`, `"h"`, `"i"` an unknown word.
It is saved as an ordinary `PreTrainedTokenizerFast`, so that demo checkpoints load like any other.
Does not show: anything about real tokenizers, where one word is often several tokens.
"""

import string
from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import Unigram
from transformers import PreTrainedTokenizerFast

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")
"""Special tokens in the order of their ids."""

_SPACE = "▁"
_KNOWN, _CHARACTER = -1.0, -20.0
"""Unigram scores: the fewest known pieces win, and any known piece beats spelling a word out."""


def _vocabulary(words: Iterable[str], firsts: Iterable[str], lasts: Iterable[str]) -> list[tuple[str, float]]:
    """Every token with its score; special tokens first, then known pieces, then characters."""
    known = sorted({_SPACE + word for word in words} | {_SPACE + first for first in firsts}) + sorted(set(lasts))
    characters = [
        char for char in _SPACE + string.ascii_letters + string.digits + string.punctuation if char not in set(known)
    ]
    return (
        [(token, 0.0) for token in SPECIAL]
        + [(piece, _KNOWN) for piece in known]
        + [(char, _CHARACTER) for char in characters]
    )


def build_tokenizer(
    words: Iterable[str], firsts: Iterable[str] = (), lasts: Iterable[str] = ()
) -> PreTrainedTokenizerFast:
    """Make the tokenizer of a closed vocabulary.

    `words` become one token each (punctuation stands alone between spaces, so "." is a word too); `firsts` are name
    pieces that begin a word and `lasts` pieces that end one. `<bos>` is put in front of every text, and
    `prompt + " " + answer` tokenises to the ids of the prompt followed by the ids of the answer.
    """
    core = Tokenizer(Unigram(_vocabulary(words, firsts, lasts), unk_id=SPECIAL.index("<unk>"), byte_fallback=False))
    core.pre_tokenizer = pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme="always")
    core.decoder = decoders.Metaspace(replacement=_SPACE, prepend_scheme="always")
    core.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", SPECIAL.index("<bos>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
