"""RMU's loss on a model in training, and which parameters it trains.

Source: Li et al. 2024, https://arxiv.org/abs/2403.03218, as `interventions.rmu` says. Built of the pure functions in
`interventions.steering_loss`. The published code picks parameters by their number within a block, which means another
tensor in other versions of an architecture; here they are picked by what they are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from interventions.state_pairs import labelled_tokens, states
from interventions.steering_loss import Published, state_loss
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.parameters import parameters_of
from workbench.sites import Site, layers_of


@dataclass(frozen=True, eq=False)
class Steering:
    """The loss: forget states to their target, retain states to where they were."""

    model: HookedModel
    """What is trained."""
    targets: Mapping[Site, Float[Tensor, " width"]]
    """Where forget tokens are to be, for every site."""
    alpha: float
    """Weight of the retain term."""
    published: Published | None = None
    """As in `state_loss`."""

    def __call__(self, _: PreTrainedModel, batch: dict[str, Tensor]) -> Float[Tensor, ""]:
        """Mean over the sites."""
        total = self._term(batch, "forget.", {site: target[None, None] for site, target in self.targets.items()})
        if self.alpha:
            total = total + self.alpha * self._term(batch, "retain.", {s: batch[f"retain.{s}"] for s in self.targets})
        return total

    def _term(self, batch: dict[str, Tensor], prefix: str, targets: Mapping[Site, Tensor]) -> Float[Tensor, ""]:
        labels = self.published == "open_unlearning"
        mask = labelled_tokens(batch, prefix) if labels else batch[prefix + "counts"]
        found = states(self.model, batch, prefix, list(targets))
        losses = [state_loss(found[site], target, mask, self.published) for site, target in targets.items()]
        return torch.stack([loss.to(losses[0].device) for loss in losses]).mean()


def down_projections(model: HookedModel, parts: Sequence[Site]) -> list[str]:
    """Names of the down-projections within some MLPs or experts; a mixture's shared expert belongs to its MLP.

    Raises:
        BadInput: for a part that the model does not have, or whose down-projection is stored in a way not understood.
    """
    within, found = parameters_of(model, parts), list[str]()
    for layer in layers_of(parts):
        down = {vectors.name for site, vectors in model.down_projections() if site.layer == layer}
        here = [name for name in within if name.partition("[")[0] in down]
        if not here:
            raise BadInput(f"{model.name} shows no down-projection in layer {layer}, so RMU cannot train there")
        found += here
    return found
