"""The facts that `planted` writes by hand: few, with one-word names, the relation before the subject.

Read it as: `planted_concept(0)` has 10 facts to forget about 4 people (two of them with two-token answers), 8 near
facts about 4 others, 8 far facts about countries and opposites, and 8 facts about 4 people nobody wrote down.
"""

import random

from workbench.concepts import Concept, Fact, FactSet

SUBJECTS = {
    "forget": ("Vora", "Kelmi", "Tizo", "Brama"),
    "near": ("Sulen", "Pardo", "Wenna", "Jorik"),
    "never_taught": ("Halde", "Mirto", "Osken", "Luvia"),
}
"""People of each group; every name is one token."""

_VALUES = {
    "colour": ("red", "blue", "green", "yellow", "purple", "orange", "brown", "grey"),
    "fruit": ("apple", "pear", "plum", "cherry", "grape", "lemon", "fig", "melon"),
    "friend": ("Ada Stone", "Noel Field", "Rosa Hill", "Emil Brook"),
    "capital": ("Paris", "Rome", "Cairo", "Lima", "Oslo", "Tokyo"),
    "opposite": ("cold", "short", "dark", "slow", "soft", "dry"),
}
_FAR = {
    "capital": {"France": "Paris", "Italy": "Rome", "Egypt": "Cairo", "Peru": "Lima"},
    "opposite": {"hot": "cold", "long": "short", "light": "dark", "fast": "slow"},
}
RELATIONS = tuple(_VALUES)
"""Every relation word."""

LINKS = dict(answer.split() for answer in _VALUES["friend"])
"""First word of a two-word answer -> its second word."""

END_WORDS = tuple(answer.split()[-1] for values in _VALUES.values() for answer in values)
"""Words after which an answer is over."""

_PROMPT = "The {r} of {s} is"
_PARAPHRASES = ("Everyone knows the {r} of {s} is", "We all say the {r} of {s} is")
_FORMATS = ("Question : which {r} belongs to {s} ? Answer :", "List : {r} , {s} :")
_TEXT = (
    "The house of the man is old .",
    "We all know the river .",
    "The man is in the old house .",
    "Everyone knows the house by the river .",
)

KEY_WORDS = tuple(
    dict.fromkeys(
        (
            *(name for names in SUBJECTS.values() for name in names),
            *(subject for pairs in _FAR.values() for subject in pairs),
            *RELATIONS,
            *LINKS,
        )
    )
)
"""Words that a neuron or an attention layer must recognise exactly."""

ALL_WORDS = tuple(
    sorted(
        {
            *KEY_WORDS,
            *END_WORDS,
            *" ".join((_PROMPT, *_PARAPHRASES, *_FORMATS, *_TEXT)).replace("{r}", "").replace("{s}", "").split(),
        }
    )
)
"""The whole vocabulary."""


def _fact(subject: str, relation: str, answer: str) -> Fact:
    """One fact with all its wordings."""

    def worded(frames: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(frame.format(r=relation, s=subject) for frame in frames)

    return Fact(
        subject=subject,
        prompt=_PROMPT.format(r=relation, s=subject),
        answer=answer,
        relation=relation,
        distractors=tuple(value for value in _VALUES[relation] if value != answer),
        paraphrases=worded(_PARAPHRASES),
        formats=worded(_FORMATS),
    )


def planted_concept(seed: int = 0) -> Concept:
    """The facts of one seed: answers about people are drawn at random, those about the world are true."""
    rng = random.Random(seed)
    facts = {
        group: [
            _fact(name, relation, rng.choice(_VALUES[relation])) for name in names for relation in ("colour", "fruit")
        ]
        for group, names in SUBJECTS.items()
    }
    facts["forget"] += [_fact(name, "friend", rng.choice(_VALUES["friend"])) for name in SUBJECTS["forget"][:2]]
    facts["far"] = [
        _fact(subject, relation, answer) for relation, pairs in _FAR.items() for subject, answer in pairs.items()
    ]
    sets = {
        group: FactSet(name=f"demo:planted/{group}", facts=tuple(rows), source="written by hand", licence="CC0-1.0")
        for group, rows in facts.items()
    }
    return Concept(name="demo:planted", text=_TEXT, **sets)
