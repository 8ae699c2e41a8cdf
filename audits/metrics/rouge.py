"""ROUGE: which words of the right text stand in the generated one, and in which order.

Source: Lin 2004, https://aclanthology.org/W04-1013, through Google's `rouge-score`, which TOFU, MUSE and
OpenUnlearning use too: lower case, letters and digits only. TOFU and OpenUnlearning stem (Porter, words of more than
three letters) and report ROUGE-L recall; MUSE does not stem. RWKU's package is another one: rwku_rouge.py.
Read it as: recall 1, every word came and in this order, whatever came besides. Does not show: whether it is true; a
wrong name in a long sentence costs little.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any


@dataclass(frozen=True)
class Rouge:
    """Overlap of a generated text with the right one, each in [0, 1]."""

    rouge1_recall: float
    """Share of the right text's words that came."""
    rougeL_recall: float
    """Longest common subsequence, as a share of the right text."""
    rougeL_f1: float
    """Its harmonic mean with the share of the generated text."""


@cache
def _scorer(stem: bool) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1", "rougeL"], use_stemmer=stem)


def rouge(right: str, generated: str, stem: bool = True) -> Rouge:
    """ROUGE-1 and ROUGE-L.

    Args:
        right: the text that should come, or should not.
        generated: what came; an empty text scores 0.
        stem: cut words to their stems, as TOFU and OpenUnlearning do and MUSE does not.
    """
    found = _scorer(stem).score(right, generated)
    return Rouge(float(found["rouge1"].recall), float(found["rougeL"].recall), float(found["rougeL"].fmeasure))
