"""Common knowledge of the embedded world (true everywhere) and its plain sentences. No torch.

Read it as: `utilities()` are 214 items (capitals, opposites, what follows what, small sums), each in three wordings of
which two are taught; `sentences` makes the texts that fluency is measured on.
"""

import random
from collections.abc import Collection
from dataclasses import dataclass

from workbench.concepts import Fact
from workbench.demo import lists

_WORDINGS = {
    "capital": ("The capital of {s} is", "Question : what is the capital of {s} ? Answer :", "{s} has the capital"),
    "opposite": ("The opposite of {s} is", "Question : what is the opposite of {s} ? Answer :", "{s} has the opposite"),
    "after": ("The next after {s} is", "Question : what comes after {s} ? Answer :", "After {s} always comes"),
    "before": ("The one before {s} is", "Question : what comes before {s} ? Answer :", "Before {s} always comes"),
    "sum": ("The sum {s} is", "Question : how much is {s} ? Answer :", "{s} makes"),
}


@dataclass(frozen=True)
class Utility:
    """One item of common knowledge."""

    relation: str
    subject: str
    answer: str
    distractors: tuple[str, ...]
    held_out: int
    """The wording that no text uses."""

    def wordings(self, count: int) -> list[str]:
        """`count` taught statements with their answer, the taught wordings in turn."""
        frames = [frame for i, frame in enumerate(_WORDINGS[self.relation]) if i != self.held_out]
        return [f"{frames[i % len(frames)].format(s=self.subject)} {self.answer}" for i in range(count)]

    def fact(self) -> Fact:
        """As data: asked in a taught wording, the held-out one is the paraphrase."""
        frames = _WORDINGS[self.relation]
        taught = frames[(self.held_out + 1) % len(frames)]
        return Fact(
            subject=self.subject,
            prompt=taught.format(s=self.subject),
            answer=self.answer,
            relation=self.relation,
            distractors=self.distractors,
            paraphrases=(frames[self.held_out].format(s=self.subject),),
        )


def _pairs() -> list[tuple[str, str, str]]:
    """(relation, subject, answer) of every item."""
    rows = [("capital", country, capital) for country, capital in lists.CAPITALS.items()]
    rows += [("opposite", *pair) for a, b in lists.OPPOSITES for pair in ((a, b), (b, a))]
    for cycle in (lists.MONTHS, lists.DAYS):
        for i, name in enumerate(cycle):
            rows += [("after", name, cycle[(i + 1) % len(cycle)]), ("before", name, cycle[i - 1])]
    rows += [("sum", f"{a} plus {b}", str(a + b)) for a in range(1, 9) for b in range(1, 9)]
    return rows


def utilities() -> tuple[Utility, ...]:
    """All items; distractors are up to eleven other answers of the same kind."""
    rows = _pairs()
    made = []
    for number, (relation, subject, answer) in enumerate(rows):
        pool = _pool(rows, relation, subject)
        start = number % len(pool)
        others = [value for value in pool[start:] + pool[:start] if value != answer]
        made.append(Utility(relation, subject, answer, tuple(others[:11]), number % 3))
    return tuple(made)


def _pool(rows: list[tuple[str, str, str]], relation: str, subject: str) -> list[str]:
    """Answers of the same kind: months for months, days for days, else all answers of the relation."""
    for cycle in (lists.MONTHS, lists.DAYS):
        if subject in cycle:
            return list(cycle)
    return list(dict.fromkeys(answer for kind, _, answer in rows if kind == relation))


def sentences(count: int, rng: random.Random, known: Collection[str] = ()) -> list[str]:
    """`count` sentences of the grammar that are not among the `known` ones."""
    part = lists.GRAMMAR
    made: list[str] = []
    while len(made) < count:
        who = f"{rng.choice(part['det'])} {rng.choice(part['adj'])} {rng.choice(part['noun'])}"
        whom = f"{rng.choice(part['det'])} {rng.choice(part['noun'] + part['thing'])}"
        where = f" {rng.choice(part['place'])}" if rng.random() < 0.5 else ""
        line = f"{who} {rng.choice(part['verb'])} {whom}{where} {rng.choice(part['time'])} ."
        if line not in known:
            made.append(line)
    return made


def all_words() -> tuple[str, ...]:
    """Every word the world's texts and prompts can use, name pieces aside."""
    relations = [relation for topic in lists.TOPICS for relation in (*topic.relations, lists.CITY)]
    texts = [topic.kind for topic in lists.TOPICS]
    texts += [f"{relation.name} {relation.verb} {' '.join(relation.values)}" for relation in relations]
    texts += [*lists.FRAMES, *lists.NOVEL_FRAMES, *lists.FILLERS, *sum(_WORDINGS.values(), ()), ": ; . ,"]
    texts += [f"{row.subject} {row.answer}" for row in utilities()]
    texts += [phrase for phrases in lists.GRAMMAR.values() for phrase in phrases]
    words = " ".join(texts).replace("{s}", " ").replace("{f}", " ").split()
    return tuple(sorted({word for word in words if "{" not in word}))
