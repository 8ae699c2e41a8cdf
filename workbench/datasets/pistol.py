"""PISTOL: made-up contracts between made-up companies, a graph of which some edges are to be forgotten.

Source: Qiu et al. 2024, https://arxiv.org/abs/2406.16810, in the copy of facebookresearch/LUNAR, MIT; not on the hub.
`pistol:sample1:A_B`, `pistol:sample2:0_1,1_2`: near are the edges that share a company with a forgotten one, retain
those that share none, far the plain factual questions. The relation of a question is its wording without the names
and numbers, so that distractors are answers to the same question about other contracts.
Does not have: paraphrases, facts that no model was taught.
"""

import re

from workbench.concepts import Concept, Fact
from workbench.datasets.assembling import assemble
from workbench.datasets.draws import counted, drawn
from workbench.datasets.places import Table, place_of, rows_if_any
from workbench.datasets.questions import asked, subject_of
from workbench.datasets.relations import with_distractors
from workbench.datasets.row import Row
from workbench.datasets.spec import Wanted
from workbench.errors import BadInput, did_you_mean

LICENCE = "MIT"
SAMPLES = ("sample1", "sample2")
NAMED = re.compile(r"[A-Z]\w+ (?:[A-Z]{2,}|Ltd|Inc|GmbH|PLC|LLC|Corp|Co)\b\.?|\d+(?:-\d+)*")
"""A company or a number."""


def load(wanted: Wanted) -> Concept:
    """Some edges of one of the graphs.

    Raises:
        BadInput: for a graph or an edge there is none of.
    """
    sample, _, named = wanted.which.partition(":")
    if sample not in SAMPLES:
        raise BadInput(f"pistol has no graph {sample!r}; write pistol:sample1:A_B. {did_you_mean(sample, SAMPLES)}")
    place, draw = place_of(wanted, ""), wanted.draw
    facts = with_distractors([_fact(row, wanted) for row in place.rows(Table((f"pistol_{sample}", sample)))])
    edges = {fact.group for fact in facts}
    gone = named.split(",")
    for edge in gone:
        if edge not in edges:
            raise BadInput(f"pistol:{sample} has no edge {edge!r}. {did_you_mean(edge, edges)}")
    companies = {company for edge in gone for company in edge.split("_")}
    touching = {edge for edge in edges if edge not in gone and companies & set(edge.split("_"))}
    every = {
        "forget": [fact for fact in facts if fact.group in gone],
        "near": [fact for fact in facts if fact.group in touching],
        "retain": [fact for fact in facts if fact.group not in touching and fact.group not in gone],
        "far": [_plain(row, wanted) for row in rows_if_any(place, Table(("factual_data",)))],
    }
    caps = {"forget": draw.forget_limit or len(every["forget"])}
    taken = {name: drawn(found, caps.get(name, draw.limit), draw.seed) for name, found in every.items()}
    words = {"near": "questions on edges that share a company", "retain": "questions on edges that share none"}
    notes = {name: counted(taken[name], len(f), words.get(name, "questions")) for name, f in every.items() if f}
    return assemble(wanted, taken, source=place.said, licence=LICENCE, notes=notes)


def _fact(row: Row, wanted: Wanted) -> Fact:
    question = row.text("question")
    prompt, names = asked(question, wanted.draw), NAMED.findall(question)
    return row.fact(
        subject=subject_of(prompt, [name for name in names if not name[0].isdigit()]),
        prompt=prompt,
        answer=row.text("answer"),
        relation=NAMED.sub("…", question),
        group=row.text("edge"),
    )


def _plain(row: Row, wanted: Wanted) -> Fact:
    prompt = asked(row.text("question"), wanted.draw)
    return row.fact(subject=subject_of(prompt), prompt=prompt, answer=row.text("answer"))
