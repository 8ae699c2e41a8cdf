"""Fluency as the entropy of word sequences: a text that repeats itself has little.

Source: Zhang et al. 2018, as ROME (https://arxiv.org/abs/2202.05262) and RWKU (https://arxiv.org/abs/2406.10890) weigh
it. Formula: mean of 2/3 H_2 and 4/3 H_3, H_n = -sum f log2 f over the relative frequencies of the text's n-grams.
They cut words with NLTK's `word_tokenize`, whose model has to be downloaded; here words and punctuation marks are split
by a regular expression (bleu.py), which differs at contractions and quotes.
Read it as: bits; it grows with the length of the text, so compare texts of equal length, and with the base model's.
Does not show: sense. Words drawn at random have the most.
"""

from collections import Counter

import numpy as np

from audits.metrics.bleu import words

WEIGHTS = {2: 2 / 3, 3: 4 / 3}
"""Weight of the sequences of each length, as published."""


def ngram_entropy(text: str) -> float:
    """Weighted entropy of one text, bits; 0 for a text with fewer than three words and one pair."""
    return float(np.mean([weight * entropy(words(text), n) for n, weight in WEIGHTS.items()]))


def entropy(tokens: list[str], n: int) -> float:
    """Entropy of the n-grams of a token list, bits; 0 when it has none."""
    counts = np.array(list(Counter(zip(*(tokens[i:] for i in range(n)), strict=False)).values()), dtype=float)
    share = counts / counts.sum() if len(counts) else counts
    return float(-(share * np.log2(share)).sum()) + 0.0
