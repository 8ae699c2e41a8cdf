"""What is left of a generated text before a stop: MUSE cuts what it generates, not the generating.

Source: MUSE, https://arxiv.org/abs/2407.06460 (`get_prefix_before_words_occur`).
Read it as: the text before the first of any stop. Does not show: whether the model stopped by itself.
"""

from collections.abc import Sequence

STOPS = ("\n\n", "\nQuestion", "Question:")
"""MUSE's stops of a question-answering prompt."""


def before(text: str, stops: Sequence[str] = STOPS) -> str:
    """The text up to the earliest stop; all of it when there is none."""
    for stop in stops:
        text = text.split(stop)[0]
    return text
