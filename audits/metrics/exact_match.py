"""Exact match of text: is what was said the answer, letter case, punctuation and articles aside?

Source: the normalisation of SQuAD, Rajpurkar et al. 2016, https://arxiv.org/abs/1606.05250: lower case, no punctuation
(there dropped, here a blank, so that a hyphen parts words), no a/an/the, single blanks. A base model goes on after the
answer, so by default it is enough that the text begins with it.
Read it as: 1 or 0. Does not show: an answer in other words.
"""

import re
import string
from typing import Literal

Where = Literal["start", "anywhere", "whole"]
"""What the answer must be: the first words said, some words said in a row, or all of them."""

_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalised(text: str) -> list[str]:
    """The words of a text as SQuAD compares them."""
    bare = "".join(" " if c in string.punctuation else c for c in text.lower())
    return _ARTICLES.sub(" ", bare).split()


def exact_match(right: str, said: str, where: Where = "start") -> float:
    """1 when the answer was said, else 0; an answer of which nothing is left never matches."""
    told, words = normalised(right), normalised(said)
    if not told:
        return 0.0
    if where == "whole":
        return float(told == words)
    starts = range(len(words) - len(told) + 1) if where == "anywhere" else range(1)
    return float(any(words[i : i + len(told)] == told for i in starts))
