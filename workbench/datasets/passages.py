"""From plain passages to facts: the beginning of a passage is the prompt, its next words are the answer."""

import re
from collections.abc import Iterable, Sequence

from workbench.concepts import Fact
from workbench.datasets.questions import subject_of
from workbench.datasets.row import Row

PROMPT_WORDS, ANSWER_WORDS = 50, 20
"""How long prompt and answer are at most."""


def completion(row: Row, begun: str, ended: str, known: Iterable[str] = (), **fields: str) -> Fact:
    """A text that was cut in two, as the source cut it."""
    return row.fact(subject=subject_of(begun, known), prompt=begun.strip(), answer=ended.strip(), **fields)


def continued(rows: Sequence[Row], kind: str = "") -> list[Fact]:
    """One fact a passage: half of its words, at most 50, then at most 20 more; too short a passage gives none."""
    made = []
    for row in rows:
        words = row.text("text").split()
        cut = min(PROMPT_WORDS, len(words) // 2)
        if cut:
            begun, ended = " ".join(words[:cut]), " ".join(words[cut : cut + ANSWER_WORDS])
            made.append(completion(row, begun, ended, kind=kind))
    return made


def pieces(text: str, size: int = 2_000) -> tuple[str, ...]:
    """A long text cut after sentences into pieces of at most about `size` characters."""
    made, now = [], ""
    for sentence in re.split(r"(?<=[.!?])\s+|\n+", text):
        if now and len(now) + len(sentence) >= size:
            made.append(now)
            now = ""
        now = f"{now} {sentence}".strip()
    return tuple(filter(None, [*made, now]))
