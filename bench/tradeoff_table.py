"""Cells of `bench.tradeoff` put together: mean and spread over seeds, for the terminal, JSON and the documentation.

Read it as: `.12 ±.03` is the mean and the sample standard deviation over the seeds; one that is 0.00 is not shown.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.unlearning import ROUTING
from workbench.concepts import Concept

MEASURED = {
    "forget": "forget",
    "paraphrase": "paraphrase",
    "near": "near",
    "far": "far",
    "perplexity": "perplexity",
    "relearnt": "after relearning",
    "benign": "after benign training",
}
"""What a cell holds -> the column that shows it."""

PROBE, DEEPEST = "probe, mean", "readable up to"
COLUMNS = ("method", *MEASURED.values(), PROBE, DEEPEST)

READABLE = 0.15
"""By how much a layer's probe must be above the reference's at the same layer to count as readable."""

TITLES = {"dense": "Dense", "moe": "Mixture of experts"}


@dataclass(frozen=True)
class Row:
    """One row and what its seeds measured."""

    model: str
    """Kind of embedded model."""
    label: str
    """What the table calls it."""
    where: str
    """Where it acts, for people."""
    seeds: Sequence[Mapping[str, Any]]
    """One measurement a seed."""

    def values(self, name: str) -> list[float]:
        """One number a seed."""
        if name == PROBE:
            return [statistics.fmean(inner(one["probe"]).values()) for one in self.seeds]
        return [float(one[name]) for one in self.seeds]

    def mean(self, name: str) -> float:
        """Over the seeds."""
        return statistics.fmean(self.values(name))

    def deepest(self, found: Sequence["Row"]) -> list[str]:
        """For every seed, the last layer at which a probe reads clearly more than in the reference; `none` where none.

        Empty when the reference was not measured.
        """
        floor = next((row for row in found if (row.model, row.label) == (self.model, "reference")), None)
        if floor is None:
            return []
        layers = inner(floor.seeds[0]["probe"])
        least = {layer: statistics.fmean(one["probe"][layer] for one in floor.seeds) + READABLE for layer in layers}
        return [
            next((layer for layer in reversed(layers) if one["probe"][layer] > least[layer]), "none")
            for one in self.seeds
        ]

    def summary(self, found: Sequence["Row"]) -> dict[str, Any]:
        """For JSON: mean and spread of everything."""
        numbers = {
            name: {"mean": self.mean(name), "sd": spread(self.values(name)), "seeds": self.values(name)}
            for name in (*MEASURED, PROBE)
        }
        more = {"seconds": self.values("seconds"), "guard": self.seeds[0]["kind"] == "hooks"}
        return {"model": self.model, "method": self.label, "where": self.where, **numbers, **more} | {
            DEEPEST: self.deepest(found)
        }


def inner(probe: Mapping[str, float]) -> dict[str, float]:
    """The blocks' outputs: what enters the first block is left out."""
    return {layer: value for layer, value in probe.items() if layer != "embed"}


def spread(values: Sequence[float]) -> float | None:
    """Sample standard deviation; None of a single value."""
    return statistics.stdev(values) if len(values) > 1 else None


def shown(values: Sequence[float]) -> str:
    """Mean and spread, for people."""
    if any(math.isnan(value) for value in values):
        return "—"
    sd = spread(values)
    return f"{statistics.fmean(values):.2f}" + (f" ±{sd:.2f}" if sd is not None and sd >= 0.005 else "")


def cells(row: Row, found: Sequence[Row]) -> list[str]:
    """One line of the table."""
    last = list(dict.fromkeys(sorted(row.deepest(found)))) or ["—"]
    return [
        row.label,
        *(shown(row.values(name)) for name in (*MEASURED, PROBE)),
        "–".join(last[:: max(1, len(last) - 1)]),
    ]


def markdown(found: Sequence[Row]) -> str:
    """One table a kind of model."""
    lines = []
    for kind in ROUTING:
        part = [row for row in found if row.model == kind]
        if part:
            lines += [f"## {TITLES[kind]}", "", "| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
            lines += ["| " + " | ".join(cells(row, found)) + " |" for row in part] + [""]
    return "\n".join(lines)


def document(
    found: Sequence[Row], concept: Concept, measures: Mapping[str, Any], seeds: Sequence[int], *, picture: bool
) -> str:
    """docs/tradeoff.md: what was measured, on what, how, and the tables."""
    parts = [_head(concept, measures, seeds), *([PICTURE] if picture else []), markdown(found)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


PICTURE = """![Forget accuracy against near accuracy, as made and after relearning](tradeoff.png)

Means over seeds, dense model; a dotted line joins the edits that no other beats in both. Marks without room for a name
are in the table."""


def _head(concept: Concept, measures: Mapping[str, Any], seeds: Sequence[int]) -> str:
    """What the tables are of."""
    relearn, total = measures["relearn"], len(concept.forget)
    held = max(1, round(relearn["share"] * total))
    reworded = len(concept.forget.reworded("paraphrases"))
    return f"""# The trade-off of every method on the embedded models

Made by `make tradeoff` (`python -m bench.tradeoff --docs`); settings and their rule in `bench/tradeoff_settings.py`.

- **Seeds** {", ".join(map(str, seeds))}: of the method, of a random localiser and of the attacks. The taught model and
  the world are one and the same (seed 0), so `±` (standard deviation over these seeds) says nothing about other models
  or worlds. A method that draws nothing makes the same edit in every seed.
- **Models**, trained on the generated world of `workbench.demo`: dense (Llama, 5 layers of width 96), and for
  the method that needs experts a mixture (OLMoE, routed by topic). Concept `{concept.name}`; `reference` never read it.
- **forget, paraphrase, near, far**: share of answers that greedy decoding gives, of {total} forget facts, {reworded}
  rewordings of them that no training text has, {len(concept.near)} near and {len(concept.far)} far facts, both disjoint
  from the retain facts that methods train on. Guessing among answers of the right kind gives 1/12 of the forget facts.
- **perplexity** of {len(concept.text)} held-out sentences, which name none of the facts.
- **after relearning**: forget accuracy on the {total - held} facts that an attacker does not hold, after
  {max(relearn["steps"])} updates (learning rate {relearn["lr"]:g}, batch {relearn["batch_size"]}, all parameters)
  on the {held} it holds.
- **after benign training**: forget accuracy after {measures["benign_steps"]} updates (learning rate
  {measures["benign_lr"]:g}, batch {measures["benign_batch"]}, all parameters) on the far facts; no forget fact is seen.
  Guards are attacked without the guard in both, because whoever trains the weights has them.
- **probe, mean**: accuracy of linear probes on the forget facts, trained on the same model's states of facts about
  other subjects, mean over the blocks' outputs; guards are on. **readable up to**: the last block at which the probe is
  more than {READABLE} above the reference's there; a range where seeds differ.
- Learning rates were chosen on seed 0 of this very model, one a loss (of the two variants of `npo` and `simnpo`, with
  the retain loss), so a row says what a method can do here, not which is better. Losses are not at equal forget
  accuracy; `tests/interventions/gradient/test_literature_shapes.py` compares some where they are.
"""
