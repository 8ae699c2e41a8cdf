"""RWKU: 200 famous people, of whom one is to be forgotten.

Source: Jin et al. 2024, https://arxiv.org/abs/2406.10890; hub `jinzhuoran/RWKU`; the repository states no licence.
`rwku:Stephen King`: forget are level 1 (fill in the blank) and level 2 (questions); `attack_prompts` level 3, its
`kind` one of nine attacks; near the neighbours' two levels; far the utility questions (general knowledge by choice,
reasoning, truthfulness, facts; their `kind`); `forget_texts` and `retain_texts` the passages for membership
inference; the instructions of the fluency test are `questions`. The words that introduce a question are ours, not
RWKU's (it also puts all in a chat template), so figures are comparable within the workbench only.
Does not have: facts that no model was taught, passages that no model was trained on.
"""

from workbench.concepts import FACT_SETS, Concept, Fact
from workbench.datasets.assembling import NO_LICENCE, assemble
from workbench.datasets.draws import counted, drawn, drawn_texts
from workbench.datasets.places import Place, Table, place_of, rows_if_any
from workbench.datasets.questions import asked, chosen, subject_of
from workbench.datasets.row import Row
from workbench.datasets.spec import Wanted
from workbench.errors import BadInput, did_you_mean

REPOSITORY = "jinzhuoran/RWKU"

LEVELS = {"1": "level 1, fill in the blank", "2": "level 2, question"}
"""Level -> kind of its facts."""

UNFRAMED = ("affirmative suffix",)
"""Attacks that end with the beginning of an answer, so that nothing may be put behind them."""

OLD_NAMES = {
    "mia_forget": "forget_mia",
    "mia_retain": "retain_mia",
    "utility_general": "retain_mmlu",
    "utility_reason": "retain_bbh",
    "utility_truthfulness": "truthful",
    "utility_factuality": "triviaqa",
    "utility_fluency": "fluency",
}
"""Table of the hub -> its file in the folders that RWKU's own script writes, one for each person."""


def load(wanted: Wanted) -> Concept:
    """All about one person.

    Raises:
        BadInput: for a person RWKU does not ask about.
    """
    place, draw = place_of(wanted, REPOSITORY), wanted.draw
    about = [row for level in LEVELS for row in _rows(place, f"forget_level{level}", wanted)]
    if not about:
        raise _unknown(place, wanted)
    attacks = [_fact(row, wanted) for row in _rows(place, "forget_level3", wanted)]
    near = [_fact(row, wanted) for level in LEVELS for row in _rows(place, f"neighbor_level{level}", wanted)]
    far = _utility(place, wanted)
    every = {"forget": [_fact(row, wanted) for row in about], "near": near, "far": far, "attack_prompts": attacks}
    caps = {"forget": draw.forget_limit or len(about), "attack_prompts": max(len(attacks), 1)}
    taken = {name: drawn(facts, caps.get(name, draw.limit), draw.seed) for name, facts in every.items()}
    texts = {name: _texts(place, name, wanted) for name in ("forget", "retain")}
    fluency = tuple(row.text("instruction") for row in _rows(place, "utility_fluency", wanted))
    return assemble(
        wanted,
        taken,
        source=place.said,
        licence=NO_LICENCE,
        notes={name: counted(taken[name], len(every[name]), "prompts") for name in FACT_SETS if every.get(name)},
        forget_texts=texts["forget"],
        retain_texts=texts["retain"],
        questions={"fluency": drawn_texts(fluency, draw.limit, draw.seed)} if fluency else {},
    )


def _table(name: str, person: str, split: str = "test") -> Table:
    names = (name, OLD_NAMES[name]) if name in OLD_NAMES else (name,)
    folder = "".join(f"[{c}]" if c in "*?[" else c for c in person.replace(" ", "_")).replace("/", "_")
    return Table((*names, *(f"*_{folder}/{one}" for one in names)), name, split)


def _rows(place: Place, name: str, wanted: Wanted) -> list[Row]:
    """The rows of a table that are about this person; a table without that column is about all."""
    found = rows_if_any(place, _table(name, wanted.which))
    return [row for row in found if "subject" not in row or row.text("subject") == wanted.which]


def _unknown(place: Place, wanted: Wanted) -> BadInput:
    rows = place.rows(_table("forget_level1", wanted.which))
    people = {row.text("subject") for row in rows if "subject" in row}
    return BadInput(f"RWKU at {place.said} asks nothing about {wanted.which!r}. {did_you_mean(wanted.which, people)}")


def _fact(row: Row, wanted: Wanted) -> Fact:
    """A row of a level of the target or of its neighbours."""
    query, kind = row.text("query"), row.text("type") if "type" in row else ""
    level = str(row.values.get("level", ""))
    if level == "1":
        prompt = asked(f"Fill in the blank. {query}", wanted.draw)
    else:
        prompt = query if kind in UNFRAMED else asked(query, wanted.draw)
    return row.fact(
        subject=subject_of(prompt, (wanted.which, *wanted.which.split()[-1:])),
        prompt=prompt,
        answer=row.text("answer"),
        kind=LEVELS.get(level, kind),
        group=row.text("neighbor") if "neighbor" in row else "",
    )


def _utility(place: Place, wanted: Wanted) -> list[Fact]:
    """Four tests of what has nothing to do with the person."""
    tests = {"general": _choice, "reason": _answered, "truthfulness": _truthful, "factuality": _answered}
    return [
        read(row, f"utility {name}", wanted)
        for name, read in tests.items()
        for row in _rows(place, f"utility_{name}", wanted)
    ]


def _choice(row: Row, kind: str, wanted: Wanted) -> Fact:
    choices = row.texts("choices")
    return _put(row, kind, chosen(row.text("question"), choices, row.number("answer", len(choices)), wanted.draw))


def _truthful(row: Row, kind: str, wanted: Wanted) -> Fact:
    """One right answer among wrong ones; put as text, since TruthfulQA always lists the right one first."""
    targets = row.row("mc1_targets")
    choices, labels = targets.texts("choices"), targets.values.get("labels")
    if not isinstance(labels, list | tuple) or len(labels) != len(choices) or 1 not in labels:
        raise targets.wrong("field 'labels' should say 0 or 1 of every choice, and 1 of one")
    draw = wanted.draw.model_copy(update={"answer": "text"})
    return _put(row, kind, chosen(row.text("question"), choices, list(labels).index(1), draw))


def _answered(row: Row, kind: str, wanted: Wanted) -> Fact:
    """A question with its answer, the first of several where there are several."""
    answers = row.texts("answers") or (row.text("answer"),)
    return _put(row, kind, {"prompt": asked(row.text("question"), wanted.draw), "answer": answers[0]})


def _put(row: Row, kind: str, fields: dict[str, object]) -> Fact:
    return row.fact(subject=subject_of(row.text("question")), kind=kind, **fields)


def _texts(place: Place, name: str, wanted: Wanted) -> tuple[str, ...]:
    found = [row.text("text") for row in _rows(place, f"mia_{name}", wanted)]
    return drawn_texts(found, wanted.draw.limit, wanted.draw.seed)
