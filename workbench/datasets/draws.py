"""Which facts are taken where a source has more than are wanted.

The draw goes by a hash of each fact's content and the seed, never by its place in a file: a file with its rows in
another order, or the same rows from the hub, gives the same facts. What is drawn keeps the order of the file, and a
digest covers that order.
"""

import hashlib
from collections.abc import Iterable, Sequence

from workbench.concepts import Fact, FactSet


def drawn(facts: Iterable[Fact], limit: int, seed: int) -> tuple[Fact, ...]:
    """At most `limit` facts, whole groups (`Fact.cluster`) first, in the order in which they came.

    Args:
        facts: all of them; the second of two with the same prompt and answer is left out.
        limit: how many are wanted.
        seed: which draw.
    """
    unique = list({(fact.prompt, fact.answer): fact for fact in reversed(list(facts))}.values())[::-1]
    if len(unique) <= limit:
        return tuple(unique)
    order = sorted(unique, key=lambda fact: (_hash(seed, fact.cluster), _hash(seed, fact.prompt, fact.answer)))
    taken = {(fact.prompt, fact.answer) for fact in order[:limit]}
    return tuple(fact for fact in unique if (fact.prompt, fact.answer) in taken)


def drawn_texts(texts: Iterable[str], limit: int, seed: int) -> tuple[str, ...]:
    """At most `limit` texts, likewise."""
    unique = list(dict.fromkeys(texts))
    taken = set(sorted(unique, key=lambda text: _hash(seed, text))[:limit])
    return tuple(text for text in unique if text in taken)


def apart(facts: Iterable[Fact], others: Sequence[Fact]) -> list[Fact]:
    """The facts that share neither a prompt nor a group with the others; a guessed subject is no group."""
    groups, prompts = {fact.group for fact in others} - {""}, {fact.prompt for fact in others}
    return [fact for fact in facts if fact.group not in groups and fact.prompt not in prompts]


def counted(taken: FactSet | Sequence[object], of: int, what: str) -> str:
    """For the notes: how many of how many, of what."""
    return f"{len(taken):,} of {of:,} {what}" if len(taken) != of else f"all {of:,} {what}"


def _hash(seed: int, *parts: str) -> str:
    return hashlib.sha256("\x1f".join((str(seed), *parts)).encode()).hexdigest()
