"""CounterFact: facts with a subject, a true object and a false one, with paraphrases and neighbours.

Source: Meng et al. 2022, https://arxiv.org/abs/2202.05262; hub `azhx/counterfact` (a copy of the original), MIT.
`counterfact:all`, `counterfact:P103` (a relation: half of its subjects are forgotten), `counterfact:Danielle
Darrieux`: paraphrases are the source's, each behind an unrelated sentence; near are the neighbourhood prompts of the
forgotten facts (other subjects with the same true object) and far are facts of other relations. Distractors are the
false object and other objects of the relation.
Does not have: facts that no model was taught. The neighbours' subjects are guessed from capitals.
"""

from workbench.concepts import Concept, Fact
from workbench.datasets.assembling import assemble
from workbench.datasets.draws import counted, drawn
from workbench.datasets.places import Table, place_of
from workbench.datasets.questions import subject_of
from workbench.datasets.relations import picked, with_distractors
from workbench.datasets.row import Row
from workbench.datasets.spec import Wanted

REPOSITORY, LICENCE = "azhx/counterfact", "MIT"


def load(wanted: Wanted) -> Concept:
    """Some facts of CounterFact, or all.

    Raises:
        BadInput: for a relation or subject it does not have, or a malformed row.
    """
    place, draw = place_of(wanted, REPOSITORY), wanted.draw
    rows = place.rows(Table(("counterfact*", "*")))
    facts = with_distractors([_fact(row) for row in rows])
    neighbours = {fact.prompt: _neighbours(row, fact) for row, fact in zip(rows, facts, strict=True)}
    chosen, alike, rest = picked(facts, wanted, "CounterFact")
    forget = drawn(chosen, draw.forget_limit or len(chosen), draw.seed)
    gone = {fact.subject for fact in chosen}
    close = [n for fact in forget for n in neighbours[fact.prompt] if not any(name in n.prompt for name in gone)]
    every = {"near": [*close, *alike], "far": rest}
    taken = {name: drawn(found, draw.limit, draw.seed) for name, found in every.items()}
    return assemble(
        wanted,
        {"forget": forget, **taken},
        source=place.said,
        licence=LICENCE,
        notes={
            "forget": counted(forget, len(chosen), "facts"),
            "near": counted(taken["near"], len(every["near"]), "neighbourhood prompts and facts of the same relation"),
            "far": counted(taken["far"], len(rest), "facts of other relations")
            if rest
            else "every relation is forgotten",
        },
    )


def _fact(row: Row) -> Fact:
    asked = row.row("requested_rewrite")
    subject, template = asked.text("subject"), asked.text("prompt")
    if template.count("{}") != 1:
        raise asked.wrong(f"field 'prompt' should hold {{}} once, where the subject stands, not {template!r}")
    paraphrases = [text for text in row.texts("paraphrase_prompts") if subject in text]
    return row.fact(
        subject=subject,
        prompt=template.replace("{}", subject),
        answer=asked.row("target_true").text("str"),
        relation=asked.text("relation_id"),
        distractors=(asked.row("target_new").text("str"),),
        paraphrases=tuple(paraphrases),
    )


def _neighbours(row: Row, fact: Fact) -> list[Fact]:
    return [
        row.fact(
            subject=subject_of(prompt),
            prompt=prompt,
            answer=fact.answer,
            relation=fact.relation,
            distractors=fact.distractors,
        )
        for prompt in row.texts("neighborhood_prompts")
    ]
