"""BLEU: how many of the generated word sequences stand in the right text, with a penalty for being short.

Source: Papineni et al. 2002, https://aclanthology.org/P02-1040, through NLTK (which `rouge-score` brings; sacrebleu
would bring four packages more). Formula: brevity penalty times the geometric mean of the clipped precisions of 1 to
`longest` words. Answers are shorter than four words as often as not, so the longest sequence is cut to the length of
the shorter text, and a precision of 0 counts as 0.1 matches (NLTK's method 1), unless no word is shared: then 0.
Departs from sacrebleu: words and punctuation marks are split by a regular expression, not by mteval-13a, and the
score is of one sentence. Use it to compare models here, not with published corpus scores.
Read it as: 1, the same text. Does not show: recall beyond the length penalty.
"""

import re
from collections.abc import Sequence

WORD = re.compile(r"\w+|[^\w\s]")
"""A word, or one mark that is neither a word nor a blank."""


def words(text: str) -> list[str]:
    """Words and punctuation marks, case kept."""
    return WORD.findall(text)


def bleu(right: str | Sequence[str], generated: str, longest: int = 4) -> float:
    """BLEU of one text, in [0, 1]; 0 when nothing came.

    Args:
        right: the right text, or several of which any will do.
        generated: what came.
        longest: longest word sequence.
    """
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    told, said = [words(r) for r in ([right] if isinstance(right, str) else right)], words(generated)
    if not said or not any(told):
        return 0.0
    order = max(1, min(longest, len(said), max(len(r) for r in told)))
    score = sentence_bleu(told, said, [1 / order] * order, SmoothingFunction().method1)
    return float(score)
