"""The questions that the stored metrics were computed on, as facts, and the models they were computed with."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from workbench.checkpoint import Checkpoint
from workbench.concepts import Fact, FactSet
from workbench.model import HookedModel

GOLDEN = Path(__file__).parents[2] / "golden"
RECORDS = {r["id"]: r for r in json.loads((GOLDEN / "metrics.json").read_text())["records"]}
TEXTS = json.loads((GOLDEN / "metric_inputs.json").read_text())["texts"]


def questions(part: str, template: str = "Question: {question} Answer:", **fields: Any) -> FactSet:
    """One fact a question; `fields` name what becomes of the row's other entries."""
    rows = []
    for row in TEXTS[part]:
        given = {"prompt": template.format(**row), "subject": row["subject"], "answer": row["answer"]}
        given |= {"distractors": tuple(row["pert"])}
        rows.append(Fact(**{**given, **{name: make(row) for name, make in fields.items()}}))
    return FactSet(name=part, facts=tuple(rows))


@cache
def model(name: str) -> HookedModel:
    folder = GOLDEN / "depth" / name if name == "llama_retain" else GOLDEN / "models" / name
    return Checkpoint(folder).open()


def per_example(record: str, key: str | None = None, part: str = "per_example") -> list[Any]:
    """A stored list, in float32 where there is a choice."""
    published = RECORDS[record]["published"]
    stored = published.get("float32") or published["value"]
    return [row[key] if key else row for row in stored[part]]
