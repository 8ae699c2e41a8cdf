"""ROUGE-L as RWKU counts it, with the package `rouge`: other tokens and other counts than `rouge-score`.

Source: RWKU, https://arxiv.org/abs/2406.10890, and the package `rouge` 1.0.1. Formula: words are what stands between
blanks, case and punctuation kept; texts are cut into sentences at full stops; the words of the longest common
subsequences of a right sentence with every generated one are put into one set, and so are the words of both texts:
recall = set / unique right words, precision = set / unique generated words, f = 2 p r / (p + r + 1e-8). An empty output
counts as "NOANSWER".
Read it as: comparable to RWKU's tables only; a word that comes twice counts once. Does not show: more than ROUGE does.
"""

from dataclasses import dataclass

from workbench.errors import BadInput

NO_ANSWER = "NOANSWER"
"""What RWKU writes for an empty output."""


@dataclass(frozen=True)
class RwkuRouge:
    """Overlap, each in [0, 1]."""

    recall: float
    precision: float
    f1: float


def rwku_rouge(right: str, generated: str) -> RwkuRouge:
    """Summary-level ROUGE-L over unique words.

    Raises:
        BadInput: when the right text has no word; the package fails there too.
    """
    told, said = _sentences(right), _sentences(generated if generated.strip() else NO_ANSWER)
    words, spoken = {w for s in told for w in s}, {w for s in said for w in s}
    if not words:
        raise BadInput(f"The right text {right!r} has no word to find again; give one")
    common = {word for ours in told for theirs in said for word in _common(ours, theirs)}
    recall = len(common) / len(words)
    precision = len(common) / len(spoken) if spoken else 0.0
    return RwkuRouge(recall, precision, 2 * precision * recall / (precision + recall + 1e-8))


def _sentences(text: str) -> list[list[str]]:
    return [part.split() for part in text.split(".") if part]


def _common(ours: list[str], theirs: list[str]) -> list[str]:
    """One longest common subsequence, read from the end; on a draw a word of the other text is left out first."""
    length = [[0] * (len(theirs) + 1) for _ in range(len(ours) + 1)]
    for i, word in enumerate(ours, 1):
        for j, other in enumerate(theirs, 1):
            same = word == other
            length[i][j] = length[i - 1][j - 1] + 1 if same else max(length[i - 1][j], length[i][j - 1])
    found, i, j = [], len(ours), len(theirs)
    while i and j:
        if ours[i - 1] == theirs[j - 1]:
            found.append(ours[i - 1])
            i, j = i - 1, j - 1
        elif length[i - 1][j] > length[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return found
