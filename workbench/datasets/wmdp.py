"""WMDP: multiple-choice questions that stand for hazardous knowledge, and the corpora to unlearn it with.

Source: Li et al. 2024, https://arxiv.org/abs/2403.03218; hub `cais/wmdp` (questions), `cais/wmdp-corpora` and, behind a
request, `cais/wmdp-bio-forget-corpus`; MIT.
`wmdp:bio|cyber|chem`: forget are the questions with lettered choices; near are the MMLU subjects next to it, far the
other MMLU subjects, both empty where MMLU cannot be found. `forget_texts` and `retain_texts` are the first passages of
the corpora (not drawn: they are large).
Does not have: facts that no model was taught, paraphrases, passages that no model was trained on.
"""

from workbench.concepts import Concept, Fact
from workbench.datasets import mmlu
from workbench.datasets.assembling import assemble
from workbench.datasets.draws import counted, drawn
from workbench.datasets.places import Place, Table, place_of, rows_if_any
from workbench.datasets.spec import Wanted
from workbench.errors import BadInput

REPOSITORY, LICENCE = "cais/wmdp", "MIT (the hub's corpora: see their cards)"

NEAR = {
    "bio": ("college_biology", "virology", "high_school_biology", "medical_genetics"),
    "cyber": ("computer_security", "college_computer_science"),
    "chem": ("college_chemistry", "high_school_chemistry"),
}
"""Subject -> MMLU subjects next to it; the paper reports the first two of bio and those of cyber."""


def load(wanted: Wanted) -> Concept:
    """The questions of one subject, its neighbours in MMLU, and its corpora.

    Raises:
        BadInput: for another subject, or when it cannot be found.
    """
    which, place, draw = wanted.named(NEAR, "subject"), place_of(wanted, REPOSITORY), wanted.draw
    rows = place.rows(Table((f"wmdp-{which}", f"{which}_questions"), f"wmdp-{which}", "test"))
    asked = [mmlu.fact_of(row, f"wmdp-{which}", wanted) for row in rows]
    others, missing = _mmlu(wanted)
    every = {
        "forget": asked,
        "near": [fact for name in NEAR[which] for fact in others.get(name, ())],
        "far": [fact for name, facts in others.items() if name not in NEAR[which] for fact in facts],
    }
    caps = {"forget": draw.forget_limit or len(asked)}
    taken = {name: drawn(facts, caps.get(name, draw.limit), draw.seed) for name, facts in every.items() if facts}
    notes = {name: counted(taken[name], len(every[name]), "questions") for name in taken}
    lacking = {name: f"WMDP has none, and MMLU could not be read: {missing}" for name in ("near", "far") if missing}
    texts = {f"{name}_texts": _corpus(place, which, name, draw.limit) for name in ("forget", "retain")}
    corpora = {name: f"the first {len(found):,} passages of the corpus" for name, found in texts.items() if found}
    return assemble(wanted, taken, source=place.said, licence=LICENCE, notes={**notes, **lacking, **corpora}, **texts)


def _mmlu(wanted: Wanted) -> tuple[dict[str, list[Fact]], str]:
    """Subject -> facts of MMLU, or why there are none."""
    beside = wanted.of("mmlu")
    try:
        return mmlu.questions(place_of(beside, mmlu.REPOSITORY), beside), ""
    except BadInput as error:
        return {}, str(error)


def _corpus(place: Place, which: str, name: str, limit: int) -> tuple[str, ...]:
    """The beginning of a corpus, if it can be read."""
    gated = (which, name) == ("bio", "forget")
    table = Table(
        (f"{which}-{name}-corpus", f"{which}_{'remove_dataset' if name == 'forget' else 'retain_dataset'}"),
        None if gated else f"{which}-{name}-corpus",
        repo="cais/wmdp-bio-forget-corpus" if gated else "cais/wmdp-corpora",
    )
    return tuple(dict.fromkeys(row.text("text") for row in rows_if_any(place, table, limit)))
