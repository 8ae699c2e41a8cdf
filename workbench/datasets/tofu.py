"""TOFU: questions about 200 authors who do not exist, of whom 2, 10 or 20 are to be forgotten.

Source: Maini et al. 2024, https://arxiv.org/abs/2401.06121; hub `locuslab/TOFU`, MIT.
`tofu:forget01|forget05|forget10`: near and retain are the other authors (near those with paraphrases and wrong answers,
where the source has them), far real authors and world facts. Any other split can be named too: it is then what is
forgotten, and the rest is what has no author in common with it. Distractors are TOFU's wrong answers, worded as its
paraphrased answer (`reworded_answer`): the truth ratio compares these, choice accuracy the distractors with `answer`.
Does not have: facts that no model was taught (a split `holdoutNN`, where a folder has one, is taken), plain text.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from workbench.concepts import Concept, Fact
from workbench.datasets.assembling import assemble
from workbench.datasets.draws import apart, counted, drawn
from workbench.datasets.places import Place, Table, place_of, rows_if_any
from workbench.datasets.questions import asked, names_in, subject_of
from workbench.datasets.row import Row
from workbench.datasets.spec import Wanted

REPOSITORY = "locuslab/TOFU"
LICENCE = "MIT"
PARTS = {"forget01": "retain99", "forget05": "retain95", "forget10": "retain90"}
"""What is forgotten -> what stays."""

SPLITS = (*PARTS, *PARTS.values(), "full", "real_authors", "world_facts")
"""Everything that can be named."""

FAR = ("real_authors", "world_facts")
"""What is unrelated to the made-up authors."""

ASKED = range(10, 21)
"""TOFU asks 20 questions about an author: in so many rows stands a name that is an author's."""


def load(wanted: Wanted) -> Concept:
    """One of TOFU's forget sets with all that belongs to it.

    Raises:
        BadInput: for a split that does not exist or cannot be found.
    """
    split, place, draw = wanted.named(SPLITS, "split"), place_of(wanted, REPOSITORY), wanted.draw
    rows = place.rows(_table(split))
    others = rows_if_any(place, _table(PARTS.get(split, "full")))
    authors = _authors([*rows, *others])
    more = _perturbed(place, split)
    forget = [_fact(row, authors, more, wanted) for row in rows]
    reworded = _perturbed(place, "retain")
    stay = apart([_fact(row, authors, reworded, wanted) for row in others], forget)
    worded = [fact for fact in stay if fact.distractors]
    near = drawn(worded or stay, draw.limit, draw.seed)
    retain = drawn(apart(stay, near), draw.limit, draw.seed)
    far_rows = [row for name in FAR if name != split for row in _with_wrong(place, name)]
    far = drawn([_fact(row, {}, {}, wanted) for row in far_rows], draw.limit, draw.seed)
    kept = drawn(forget, draw.forget_limit or len(forget), draw.seed)
    holdout = rows_if_any(place, _table(split.replace("forget", "holdout"))) if split in PARTS else []
    never = drawn([_fact(row, authors, {}, wanted) for row in holdout], draw.limit, draw.seed)
    others_said = f"questions about other authors{' (retain_perturbed)' if worded else ''}"
    return assemble(
        wanted,
        {"forget": kept, "near": near, "far": far, "retain": retain, "never_taught": never},
        source=place.said,
        licence=LICENCE,
        notes={
            "forget": counted(kept, len(forget), f"questions of {split}"),
            "near": counted(near, len(worded or stay), others_said),
            "far": counted(far, len(far_rows), "questions on real authors and the world"),
            "retain": counted(retain, len(stay), "questions about other authors, none of them near"),
            "never_taught": _never(never, split),
        },
    )


def _never(facts: Sequence[Fact], split: str) -> str:
    if facts:
        return counted(facts, len(facts), "questions of the holdout split")
    said = "TOFU has no authors that no model was taught"
    return f"{said}, and there is no split {split.replace('forget', 'holdout')}" if split in PARTS else said


def _table(name: str) -> Table:
    return Table((name,), name)


def _with_wrong(place: Place, name: str) -> list[Row]:
    """A split with its wrong answers, if it has them."""
    return rows_if_any(place, _table(f"{name}_perturbed")) or rows_if_any(place, _table(name))


def _perturbed(place: Place, split: str) -> dict[str, Row]:
    """Question -> its row with paraphrases and wrong answers."""
    return {row.text("question"): row for row in rows_if_any(place, _table(f"{split}_perturbed"))}


def _authors(rows: Iterable[Row]) -> Counter[str]:
    """Name -> in how many different questions with their answers it stands."""
    texts = {f"{row.text('question')} \n {row.text('answer')}" for row in rows}
    return Counter(name for text in texts for name in names_in(text))


def _fact(row: Row, authors: Counter[str] | dict[str, int], more: dict[str, Row], wanted: Wanted) -> Fact:
    question, answer = row.text("question"), row.text("answer")
    named = [n for n in names_in(f"{question} \n {answer}") if authors.get(n, 0) in ASKED]
    author = max(named, key=lambda name: (authors[name], name), default="")
    prompt, worded = asked(question, wanted.draw), more.get(question, row)
    wrong = worded.texts("perturbed_answer") or _options(row, answer)
    reworded = worded.text("paraphrased_answer") if "paraphrased_answer" in worded else ""
    again = worded.text("paraphrased_question") if "paraphrased_question" in worded else ""
    return row.fact(
        subject=subject_of(prompt, (author, *re.split(r"\s+", author)[-1:])),
        prompt=prompt,
        answer=answer,
        group=author,
        distractors=tuple(dict.fromkeys(text for text in wrong if text != answer)),
        paraphrases=(asked(again, wanted.draw),) if again else (),
        reworded_answer=reworded,
    )


def _options(row: Row, answer: str) -> tuple[str, ...]:
    """The other options of real authors and world facts."""
    return tuple(
        row.text(name) for name in (f"option{i}" for i in range(1, 5)) if name in row and row.text(name) != answer
    )
