"""Rounding to bfloat16: the rung above quantisation, as if a model edited in float32 were published at half the size.

Source: none needed; IEEE rounding to the nearest bfloat16, every parameter, held afterwards as it was held before.
Read it as: if the answers come back here, the unlearning is lost by merely storing the model. Of a model stored in
bfloat16 it changes nothing.
Does not show: what computing in bfloat16, beside holding the weights in it, does.
"""

from collections.abc import Iterable
from typing import ClassVar

import torch

from audits.attacks.attack import Attack
from workbench.concepts import Concept, FactSet
from workbench.edits import WeightEdit, fit_weights
from workbench.model import HookedModel


class RoundToBfloat16(Attack):
    """Weights in bfloat16."""

    threat: ClassVar[str] = "Somebody has the weights and stores them in bfloat16, as is usual; no data."

    def attempts(self, model: HookedModel, concept: Concept) -> Iterable[WeightEdit]:
        """The rounded weights."""
        yield self.fit(model, concept)

    def fit(self, model: HookedModel, facts: FactSet | Concept) -> WeightEdit:  # noqa: ARG002  # attacks share this
        """The rounded weights as an edit; it needs no facts."""
        names = model.parameter_names()

        def change() -> dict[str, int]:
            with torch.no_grad():
                for name in names:
                    parameter = model.parameter(name)
                    parameter.copy_(parameter.to(torch.bfloat16).to(parameter.dtype))
            return {"tensors": len(names)}

        return fit_weights(model, names, change, self.spec())
