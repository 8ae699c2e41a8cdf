"""MMLU: multiple-choice questions of 57 subjects, of which one is to be forgotten.

Source: Hendrycks et al. 2021, https://arxiv.org/abs/2009.03300; hub `cais/mmlu`, MIT.
`mmlu:virology`, or several with commas: near are the subjects that share a word of their name (high_school_biology and
college_biology), far all others. Read from `all/test`, from `test/SUBJECT_test.csv` or `SUBJECT_dev.csv` as published
(without a header, letters) or with a header and an index. Each question is put with its lettered choices.
Does not have: paraphrases, facts that no model was taught.
"""

from collections.abc import Iterable

from workbench.concepts import LETTERS, Concept, Fact
from workbench.datasets.assembling import assemble
from workbench.datasets.draws import counted, drawn
from workbench.datasets.places import Folder, Hub, NoTable, Place, Table, place_of, rows_if_any
from workbench.datasets.questions import chosen, subject_of
from workbench.datasets.row import Row
from workbench.datasets.spec import Wanted
from workbench.errors import BadInput, did_you_mean

REPOSITORY, LICENCE = "cais/mmlu", "MIT"
COLUMNS = ("question", "choice0", "choice1", "choice2", "choice3", "answer")
PARTS = ("test", "validation", "val", "dev")
"""Splits, in the order in which one is looked for."""

COMMON = frozenset(["high", "school", "college", "elementary", "professional", "us", "and", "of", "conceptual"])
"""Words of subjects' names that say nothing about what they teach."""


def load(wanted: Wanted) -> Concept:
    """The questions of some subjects, with near and far ones.

    Raises:
        BadInput: for a subject MMLU does not have, or when it cannot be found.
    """
    place, draw = place_of(wanted, REPOSITORY), wanted.draw
    found, asked = questions(place, wanted), wanted.which.split(",")
    for name in asked:
        if name not in found:
            raise BadInput(f"MMLU at {place.said} has no subject {name!r}. {did_you_mean(name, found)}")
    close = related(asked, found)
    every = {
        "forget": [fact for name in asked for fact in found[name]],
        "near": [fact for name in close for fact in found[name]],
        "far": [fact for name in found if name not in close and name not in asked for fact in found[name]],
    }
    caps = {"forget": draw.forget_limit or len(every["forget"])}
    taken = {name: drawn(facts, caps.get(name, draw.limit), draw.seed) for name, facts in every.items()}
    notes = {name: counted(taken[name], len(facts), "questions") for name, facts in every.items()}
    notes["near"] += f" of {', '.join(close)}" if close else "; no subject has a name like it"
    return assemble(wanted, taken, source=place.said, licence=LICENCE, notes=notes)


def questions(place: Place, wanted: Wanted) -> dict[str, list[Fact]]:
    """Subject -> its facts, from the first split there is.

    Raises:
        NoTable: when there is none.
    """
    for split in PARTS:
        rows = _of_hub(place, split) if isinstance(place, Hub) else _of_folder(place, split)
        if rows:
            found: dict[str, list[Fact]] = {}
            for subject, row in rows:
                found.setdefault(subject, []).append(fact_of(row, subject, wanted))
            return found
    raise NoTable(f"{place.said} has no SUBJECT_test.csv, nor any of the other splits of MMLU")


def related(names: Iterable[str], known: Iterable[str]) -> list[str]:
    """The subjects whose names share a telling word with one of these."""
    given = list(names)
    words = {word for name in given for word in name.split("_")} - COMMON
    return [name for name in known if name not in given and words & set(name.split("_"))]


def fact_of(row: Row, subject: str, wanted: Wanted) -> Fact:
    """One question; its answer an index or a letter, its choices a list or four columns."""
    question = row.text("question")
    choices = row.texts("choices") or tuple(row.text(f"choice{i}") for i in range(4))
    said = row.values.get("answer")
    letter = isinstance(said, str) and len(said) == 1 and said in LETTERS[: len(choices)]
    right = LETTERS.index(str(said)) if letter else row.number("answer", len(choices))
    fields = chosen(question, choices, right, wanted.draw)
    return row.fact(subject=subject_of(question), kind=subject, **fields)


def _of_hub(place: Place, split: str) -> list[tuple[str, Row]]:
    return [(row.text("subject"), row) for row in rows_if_any(place, Table(("all",), "all", split))]


def _of_folder(place: Place, split: str) -> list[tuple[str, Row]]:
    """One file a subject, or one table of all with a column `subject`."""
    if not isinstance(place, Folder):
        return []
    ending, made = f"_{split}", []
    files = [place.path] if place.path.is_file() else sorted(place.path.glob(f"**/*{ending}.csv"))
    for path in files:
        subject = path.stem.removesuffix(ending)
        made += [(subject, row) for row in Folder(path).rows(Table(("*",), columns=COLUMNS))]
    return made or _of_hub(place, split)
