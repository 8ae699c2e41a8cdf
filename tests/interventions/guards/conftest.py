"""Planted models in which every forget fact is known, and what a guard leaves of each set."""

from dataclasses import dataclass

import pytest
import torch

from workbench.concepts import Concept
from workbench.demo.planted import plant
from workbench.edits import Edit
from workbench.model import HookedModel
from workbench.scoring import score, score_candidates

SETS = ("forget", "near", "far")


@dataclass(frozen=True)
class Bench:
    """A planted model and its facts."""

    model: HookedModel
    concept: Concept

    def greedy(self, edit: Edit | None = None) -> dict[str, float]:
        """Share of each set that is answered, and of the forget facts in other wordings."""
        if edit is not None:
            with edit.on(self.model):
                return self.greedy()
        sets = {name: getattr(self.concept, name).facts for name in SETS}
        sets |= {kind: self.concept.forget.reworded(kind).facts for kind in ("paraphrases", "formats")}
        return {name: float(score(self.model, facts).greedy.double().mean()) for name, facts in sets.items()}

    def chosen(self) -> float:
        """Share of the forget facts whose answer beats every wrong one."""
        found = score_candidates(self.model, self.concept.forget.facts)
        return sum(float(one[0] > one[1:].max()) for one in found) / len(found)

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: self.model.parameter(name).detach().clone() for name in self.model.parameter_names()}

    def is_as(self, weights: dict[str, torch.Tensor]) -> bool:
        return all(torch.equal(weights[name], self.model.parameter(name)) for name in self.model.parameter_names())


@pytest.fixture(scope="session", params=["llama", "olmoe"])
def bench(request: pytest.FixtureRequest) -> Bench:
    found = plant(request.param, 0)
    return Bench(HookedModel(found.model, found.tokenizer, check=False), found.concept)


@pytest.fixture(scope="session")
def dense_bench() -> Bench:
    found = plant("llama", 0)
    return Bench(HookedModel(found.model, found.tokenizer, check=False), found.concept)
