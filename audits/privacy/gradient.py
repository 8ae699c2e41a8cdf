"""Membership by the size of the gradient: how much a text would still move the weights.

Source: OpenUnlearning's `gradnorm`; formula and quirks in audits/metrics/gradient_size.py. One text at a time.
Read it as: higher, less likely a member. Needs a backward pass a text, so choose the parameters: `where` names sites,
for instance the last blocks; all of them are published. With a guard on, the gradient is that of what the guard says.
Does not show: more than loss where the two go together, which is mostly.
"""

from collections.abc import Sequence

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from audits.metrics.gradient_size import gradient_size
from audits.privacy.members import Part, members_of
from workbench.concepts import FactSet
from workbench.errors import BadInput
from workbench.fisher import differentiable
from workbench.model import HookedModel
from workbench.parameters import parameters_of
from workbench.registry import Method
from workbench.scoring import batch_of, score_batch
from workbench.sites import parse_sites
from workbench.tokens import Encoded
from workbench.trace import Trace


class GradientScore(Method):
    """Norm of the gradient of a text's mean token loss."""

    where: tuple[str, ...] = ()
    """Whole parts such as `L3.mlp_out` whose parameters are differentiated; all parameters when empty."""
    p: float = Field(2.0, gt=0)
    """Which norm."""
    part: Part = "answer"
    """Of a fact: its answer after its prompt, or prompt and answer as one text. Plain texts are always scored whole."""
    published: bool = False
    """Mean of the parameter tensors' norms in place of the norm of the whole gradient, as OpenUnlearning has it."""

    def look(self, model: HookedModel, facts: FactSet | Sequence[str]) -> Trace:
        """One score a fact or text, higher for what is less likely a member.

        Raises:
            BadInput: when there is nothing to read, or no parameter that can be differentiated.
        """
        members = members_of(model, facts, self.part, published=False)
        names = parameters_of(model, parse_sites(self.where) if self.where else None)
        parameters = [model.parameter(name) for name in names if "[" not in name]
        if len(parameters) != len(names) or not all(p.is_floating_point() for p in parameters):
            raise BadInput(
                f"where={', '.join(self.where) or 'all'}: the gradient of single experts, or of integer weights, is "
                "not taken; name whole parts, such as L3.mlp_out"
            )
        with differentiable(parameters):
            values = np.array([self._size(model, text, parameters) for text in members.encoded])
        return members.trace("membership_gradient", values, "gradient norm", self)

    def _size(self, model: HookedModel, text: Encoded, parameters: list[torch.nn.Parameter]) -> float:
        batch, targets = batch_of([text])
        loss = -score_batch(model, batch, targets, grad=True).logprob.sum() / len(text.answer)
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        gradients: list[Tensor] = [g for g in found if g is not None]
        if not gradients:
            raise BadInput("The loss depends on none of the chosen parameters; name parts that it passes through")
        return float(gradient_size(gradients, self.p, self.published))
