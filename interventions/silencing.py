"""CRISP's loss on a model in training: features silent on the forget facts, states as they were on the retain facts.

Source: Ashuach et al. 2025, https://arxiv.org/abs/2508.13650, as `interventions.crisp` says. Built of the pure
functions in `interventions.suppression_loss` and `interventions.steering_loss`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from interventions.chosen_features import Chosen
from interventions.state_pairs import Told, states, stored
from interventions.steering_loss import state_loss
from interventions.suppression_loss import suppression_loss
from workbench.concepts import Fact
from workbench.model import HookedModel
from workbench.sites import Site


@dataclass(frozen=True, eq=False)
class Silencing:
    """(1 - beta) * activations + beta * (change of states + gamma * change of the last hidden state)."""

    model: HookedModel
    """What is trained."""
    silenced: Sequence[Chosen]
    """The features."""
    strength: float
    """As in `suppression_loss`."""
    beta: float
    """Weight of what is to stay."""
    gamma: float
    """Weight of the last hidden state within that; 0 leaves the blocks above the SAEs unrun."""

    @property
    def read(self) -> list[Site]:
        """What the SAEs read."""
        return [one.sae.site for one in self.silenced]

    @property
    def last(self) -> Site:
        """The output of the last block."""
        return Site(self.model.n_layers - 1, "resid_post")

    @property
    def kept(self) -> list[Site]:
        """What is held on the retain facts."""
        return list(dict.fromkeys([*self.read, *([self.last] if self.gamma else [])]))

    def __call__(self, _: PreTrainedModel, batch: dict[str, Tensor]) -> Float[Tensor, ""]:
        """Of one batch; means over the SAEs."""
        return (1 - self.beta) * self._activation(batch) + self.beta * self._change(batch)

    def _activation(self, batch: dict[str, Tensor]) -> Float[Tensor, ""]:
        found, counts = states(self.model, batch, "forget.", self.read), batch["forget.counts"]
        losses = []
        for one in self.silenced:
            value = found[one.sae.site][counts.to(found[one.sae.site].device)]
            fired = batch[f"forget.{fired_at(one)}"][counts].to(one.floor.device)
            term = suppression_loss(one.before(value), one.level(value), fired, one.on(value), one.floor, self.strength)
            losses.append(term.to(counts.device))
        return torch.stack(losses).mean()

    def _change(self, batch: dict[str, Tensor]) -> Float[Tensor, ""]:
        found, counts = states(self.model, batch, "retain.", self.kept), batch["retain.counts"]
        moved = [state_loss(found[site], batch[f"retain.{site}"], counts).to(counts.device) for site in self.read]
        stay = torch.stack(moved).mean()
        if not self.gamma:
            return stay
        norm, now = self.model.decoder.norm, found[self.last]
        with torch.no_grad():
            before = norm(batch[f"retain.{self.last}"].to(now.device))
        return stay + self.gamma * state_loss(norm(now), before, counts).to(counts.device)


def fired_at(one: Chosen) -> str:
    """What a batch calls the places where chosen features fired before the training."""
    return f"fired.{one.sae.site}"


def with_firing(model: HookedModel, facts: Sequence[Fact], silenced: Sequence[Chosen]) -> list[Told]:
    """Facts, with where the chosen features fire in them now."""
    told = stored(model, facts, [one.sae.site for one in silenced])
    return [
        Told(fact.fact, {fired_at(one): one.on(fact.known[str(one.sae.site)]).cpu() for one in silenced})
        for fact in told
    ]
