"""Known facts: 1,209 facts that GPT-2 XL completes rightly, for tracing.

Source: Meng et al. 2022, https://arxiv.org/abs/2202.05262 (ROME), MIT; no hub copy by its authors, so a folder is
needed.
`known_1000:all`, `known_1000:P36` (a relation: half of its subjects are forgotten, the other half is near),
`known_1000:Vinson Massif` (near: other subjects of the relation); far are the other relations. Distractors are other
answers of the relation.
Does not have: paraphrases, facts that no model was taught. Another model than GPT-2 XL may not know them all.
"""

from workbench.concepts import Concept, Fact
from workbench.datasets.assembling import assemble
from workbench.datasets.draws import counted, drawn
from workbench.datasets.places import Table, place_of
from workbench.datasets.relations import picked, with_distractors
from workbench.datasets.row import Row
from workbench.datasets.spec import Wanted

LICENCE = "MIT"


def load(wanted: Wanted) -> Concept:
    """Some of the known facts, or all.

    Raises:
        BadInput: for a relation or subject there is none of, or a malformed row.
    """
    place, draw = place_of(wanted, ""), wanted.draw
    facts = with_distractors([_fact(row) for row in place.rows(Table(("known_1000*", "known*")))])
    chosen, close, rest = picked(facts, wanted, "known_1000")
    every = {"forget": chosen, "near": close, "far": rest}
    caps = {"forget": draw.forget_limit or len(chosen)}
    taken = {name: drawn(found, caps.get(name, draw.limit), draw.seed) for name, found in every.items()}
    notes = {name: counted(taken[name], len(found), "facts") for name, found in every.items() if found}
    return assemble(wanted, taken, source=place.said, licence=LICENCE, notes=notes)


def _fact(row: Row) -> Fact:
    return row.fact(
        subject=row.text("subject"),
        prompt=row.text("prompt"),
        answer=row.text("attribute"),
        relation=row.text("relation_id"),
    )
