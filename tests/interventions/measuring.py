"""What tests of weight edits measure: what is left of each set, chance, and whether a model is as it was."""

from collections.abc import Sequence
from typing import Any

import torch

from workbench.concepts import Fact
from workbench.edits import Edit
from workbench.model import HookedModel
from workbench.scoring import score


def recalled(model: HookedModel, found: Any, edit: Edit) -> dict[str, float]:
    """Share of each set's answers that greedy decoding gives with the edit on."""
    with edit.on(model):
        return {
            name: float(score(model, getattr(found.concept, name).facts).greedy.float().mean())
            for name in ("forget", "near", "far")
        }


def chance(facts: Sequence[Fact]) -> float:
    """Share of answers a blind choice among the candidates gives; shares are float32."""
    return sum(1 / len(fact.candidates) for fact in facts) / len(facts) + 1e-6


def bits_of(model: HookedModel) -> dict[str, torch.Tensor]:
    """A copy of everything the model holds."""
    return {name: value.clone() for name, value in model.hf.state_dict().items()}


def same(model: HookedModel, before: dict[str, torch.Tensor]) -> bool:
    """Whether it holds the same bits."""
    return all(torch.equal(value, before[name]) for name, value in model.hf.state_dict().items())
