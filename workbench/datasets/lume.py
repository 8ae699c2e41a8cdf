"""LUME (SemEval-2025 task 4): creative texts, made-up personal data and biographies, some of each to be forgotten.

Source: Ramakrishna et al. 2025, https://arxiv.org/abs/2502.15097, Apache-2.0; its hub copy asks for a form to be
filled in, so a folder with forget.jsonl and retain.jsonl is needed.
`lume:task1|task2|task3|all`: near and retain are documents of the same task that stay (near and retain share none),
far those of the other tasks. The kind says task and form: completion (the text cut in two) or question.
Facts are clustered by document.
Does not have: paraphrases, distractors (but for the questions of task 2: others' answers), facts that no model was
taught.
"""

import re

from workbench.concepts import Concept, Fact
from workbench.datasets.assembling import assemble
from workbench.datasets.draws import apart, counted, drawn
from workbench.datasets.passages import completion
from workbench.datasets.places import Table, place_of
from workbench.datasets.questions import asked, subject_of
from workbench.datasets.relations import with_distractors
from workbench.datasets.row import Row
from workbench.datasets.spec import Wanted

LICENCE = "Apache-2.0"
TASKS = ("task1", "task2", "task3", "all")
PERSONAL = "task2"
"""Asks the same few questions about every made-up person, so that others' answers are distractors."""

IDENTIFIER = re.compile(r"^(?P<document>.*?)(?P<form>sc|qa)(?P<number>\d+)$")
"""An id is the document's, then sc (completion) or qa (question), then a number."""


def load(wanted: Wanted) -> Concept:
    """The forget and retain documents of a task.

    Raises:
        BadInput: for a task there is none of, or a malformed row.
    """
    task, place, draw = wanted.named(TASKS, "part"), place_of(wanted, ""), wanted.draw
    rows = {name: place.rows(Table((name,))) for name in ("forget", "retain")}
    facts = with_distractors([_fact(row, wanted) for found in rows.values() for row in found])
    gone, stays = facts[: len(rows["forget"])], facts[len(rows["forget"]) :]
    mine = [fact for fact in gone if task in ("all", _task(fact))]
    same = [fact for fact in stays if task in ("all", _task(fact))]
    other = [fact for fact in stays if task not in ("all", _task(fact))]
    near, far = drawn(same, draw.limit, draw.seed), drawn(other, draw.limit, draw.seed)
    retain = drawn(apart(same, near), draw.limit, draw.seed)
    forget = drawn(mine, draw.forget_limit or len(mine), draw.seed)
    return assemble(
        wanted,
        {"forget": forget, "near": near, "far": far, "retain": retain},
        source=place.said,
        licence=LICENCE,
        notes={
            "forget": counted(forget, len(mine), "prompts"),
            "near": counted(near, len(same), "prompts of the same task that stay"),
            "retain": counted(retain, len(same), "prompts of the same task that stay"),
            "far": counted(far, len(other), "prompts of other tasks") if other else "every task is forgotten",
        },
    )


def _task(fact: Fact) -> str:
    return fact.kind.partition(" ")[0]


def _fact(row: Row, wanted: Wanted) -> Fact:
    named = IDENTIFIER.match(row.text("id"))
    if named is None:
        raise row.wrong(f"field 'id' should end in sc or qa and a number, not {row.text('id')!r}")
    task, text, answer = row.text("task").lower(), row.text("input"), row.text("output")
    if named["form"] == "sc":
        return completion(row, text, answer, group=named["document"], kind=f"{task} completion")
    prompt = asked(text, wanted.draw)
    subject = subject_of(prompt)
    return row.fact(
        subject=subject,
        prompt=prompt,
        answer=answer,
        relation=text.replace(subject, "…") if task == PERSONAL else "",
        group=named["document"],
        kind=f"{task} question",
    )
