"""Facts that come as subject, relation and object: which to forget, and which other answers a relation has."""

import hashlib
from collections.abc import Sequence

from workbench.concepts import Fact
from workbench.datasets.spec import Wanted
from workbench.errors import BadInput, did_you_mean

WRONG = 5
"""Most distractors a fact is given from its relation."""


def picked(facts: Sequence[Fact], wanted: Wanted, source: str) -> tuple[list[Fact], list[Fact], list[Fact]]:
    """Facts to forget, others of the same relations, and the rest.

    `all` forgets every fact; a relation (P36) forgets half of its subjects and leaves the other half near; a
    subject forgets all about it.

    Raises:
        BadInput: when it names neither a relation nor a subject.
    """
    which, relations = wanted.which, {fact.relation for fact in facts}
    if which in ("", "all"):
        return list(facts), [], []
    if which in relations:
        names = sorted({f.subject for f in facts if f.relation == which}, key=lambda n: _hash(n, wanted.draw.seed))
        gone = set(names[: (len(names) + 1) // 2])
        forget = [fact for fact in facts if fact.relation == which and fact.subject in gone]
    else:
        forget = [fact for fact in facts if fact.subject == which]
    if not forget:
        near = did_you_mean(which, {fact.subject for fact in facts}).partition("There are")[0]
        raise BadInput(
            f"{source} has neither a relation nor a subject {which!r}. {near}Write `all`, a subject word for word, or "
            f"one of its relations: {', '.join(sorted(relations))}"
        )
    asked, subjects = {fact.relation for fact in forget}, {fact.subject for fact in forget}
    others = [fact for fact in facts if fact.subject not in subjects]
    near_facts = [fact for fact in others if fact.relation in asked]
    return forget, near_facts, [fact for fact in others if fact.relation not in asked]


def with_distractors(facts: Sequence[Fact]) -> list[Fact]:
    """The facts with the answers that other facts of their relation have, after the distractors they have.

    A fact without a relation keeps what it has.
    """
    answers: dict[str, list[str]] = {}
    for fact in facts:
        answers.setdefault(fact.relation, []).append(fact.answer)
    ordered = {name: sorted(set(found), key=lambda text: _hash(text, 0)) for name, found in answers.items()}
    made = []
    for fact in facts:
        found = dict.fromkeys([*fact.distractors, *(ordered[fact.relation] if fact.relation else ())])
        wrong = [text for text in found if text != fact.answer][:WRONG]
        made.append(fact.model_copy(update={"distractors": tuple(wrong)}))
    return made


def _hash(text: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}\x1f{text}".encode()).hexdigest()
