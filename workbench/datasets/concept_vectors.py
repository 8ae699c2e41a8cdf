"""ConceptVectors: concepts of LLaMA-2-7B-chat and OLMo-7B, each with the one value vector that holds it.

Source: Hong et al. 2024, https://arxiv.org/abs/2406.11614; hub `YihuaiHong/ConceptVectors`, CC BY 4.0.
`conceptvectors:llama:Poland`, `conceptvectors:olmo:Caffeine`: forget are sentences of the concept's Wikipedia article
cut in two, far those of the other concepts in the file. The ten questions, the fifty unrelated ones and the German
ones have no answers (the paper compares with what the base answers), so they are `questions`. `known_sites` is the
published layer and column; `forget_texts` the article in pieces.
Does not have: near facts, facts that no model was taught.
"""

from workbench.concepts import Concept, Fact
from workbench.datasets.assembling import assemble
from workbench.datasets.draws import counted, drawn, drawn_texts
from workbench.datasets.passages import completion, pieces
from workbench.datasets.places import NoTable, Place, Table, place_of, rows_if_any
from workbench.datasets.row import Row
from workbench.datasets.spec import Wanted
from workbench.errors import BadInput, did_you_mean

REPOSITORY, LICENCE = "YihuaiHong/ConceptVectors", "CC BY 4.0"
MODELS = {"llama": "llama2-7b", "olmo": "olmo-7b"}
"""What a spec says -> what the files say."""

PARTS = ("concepts", "concepts_dev", "concepts_test")
"""Files of one model: all, and the two halves of the same."""


def load(wanted: Wanted) -> Concept:
    """One concept of one model.

    Raises:
        BadInput: for a model or a concept there is none of.
    """
    model, _, name = wanted.which.partition(":")
    if model not in MODELS:
        raise BadInput(
            f"conceptvectors:{wanted.which} names no model. Write conceptvectors:llama:Poland. "
            f"{did_you_mean(model, MODELS)}"
        )
    place, draw = place_of(wanted, REPOSITORY), wanted.draw
    rows = {row.text("Concept"): row for row in _rows(place, model)}
    if name not in rows:
        raise BadInput(f"{place.said} has no concept {name!r} of {MODELS[model]}. {did_you_mean(name, rows)}")
    row = rows[name]
    forget = _completions(row)
    others = [fact for other, found in rows.items() if other != name for fact in _completions(found)]
    far = drawn(others, draw.limit, draw.seed)
    kept = drawn(forget, draw.forget_limit or len(forget), draw.seed)
    article = pieces(row.text("wikipedia_content")) if "wikipedia_content" in row else ()
    texts = drawn_texts(article, draw.limit, draw.seed)
    return assemble(
        wanted,
        {"forget": kept, "far": far},
        source=place.said,
        licence=LICENCE,
        notes={
            "forget": counted(kept, len(forget), "sentences of the article"),
            "far": counted(far, len(others), "sentences of other concepts' articles"),
            "near": "ConceptVectors has no neighbours; its unrelated questions have no answers (see questions)",
            "questions": "no answers are given: answers are compared with the base's own",
        },
        questions=_questions(place, row, model, name),
        forget_texts=texts,
        known_sites=(f"L{row.number('Layer', 1_000)}.mlp_act[{_column(row)}]",),
    )


def _rows(place: Place, model: str) -> list[Row]:
    """Every concept of a model: from the whole file, or from its two halves."""
    found: list[Row] = []
    for part in PARTS:
        stem = f"{MODELS[model]}_{part}"
        found += rows_if_any(place, Table((stem, f"*/{stem}"), file=f"ConceptVectors_data/{stem}.json"))
        if found and part == PARTS[0]:
            break
    if not found:
        files = ", ".join(f"{MODELS[model]}_{part}.json" for part in PARTS)
        raise NoTable(f"{place.said} has none of {files}; put one there, or name a folder that has one with @FOLDER")
    return found


def _column(row: Row) -> int:
    """An older notebook of the authors calls it Dimension."""
    return row.number("Dim" if "Dim" in row else "Dimension")


def _completions(row: Row) -> list[Fact]:
    concept = row.text("Concept")
    return [
        completion(one, one.text("First_half"), one.text("Second_half"), (concept,), group=concept)
        for one in (row.rows("text_completion") if "text_completion" in row else ())
    ]


def _questions(place: Place, row: Row, model: str, name: str) -> dict[str, tuple[str, ...]]:
    found = {"forget": row.texts("QA"), "far": row.texts("unrelated_QA") or row.texts("unrelated_qa")}
    stem = f"{model}_jailbreak_German_qa"
    for german in rows_if_any(place, Table((f"Jailbreak/{stem}", stem), file=f"Jailbreak/{stem}.json")):
        found["forget in German"] = german.texts(name)
    return {about: asked for about, asked in found.items() if asked}
