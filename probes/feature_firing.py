"""Which features fire on the facts to forget and hardly on the others, and how much of that is chance.

The selection is that of `workbench.feature_choice.Limits`. The control is ours: whole facts are dealt at random to
forget and retain, and the same selection is made again.
Read it as: `p` is the share of random deals in which the found features fire at least as much, added up.
Does not show: that features belong to the topic and not to its single subjects. Facts are dealt one by one, so one
subject's feature counts as special when all facts about that subject are in forget.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.feature_choice import Limits
from workbench.sae_reading import FeatureReading


@dataclass(frozen=True)
class Firing:
    """Tokens at which every feature fires, fact by fact, the facts to forget first."""

    counts: Float[Tensor, "fact feature"]
    """At how many tokens of a fact."""
    tokens: Float[Tensor, " fact"]
    """Of how many."""
    n_forget: int
    """How many facts are to be forgotten."""

    @classmethod
    def of(cls, readings: Mapping[str, FeatureReading]) -> "Firing":
        """Put the readings of sets together, `forget` first."""
        order = ["forget", *(name for name in readings if name != "forget")]
        counts = torch.cat([readings[name].fired for name in order]).double()
        tokens = torch.cat([readings[name].tokens for name in order]).double()
        return cls(counts, tokens, len(readings["forget"].tokens))

    @property
    def why_not(self) -> str:
        """Why nothing can be said of retain; empty when it can."""
        return "" if len(self.tokens) > self.n_forget else "no near or far fact was given, so no feature can be found"

    def shares(
        self, order: Int[Tensor, " fact"] | None = None
    ) -> tuple[Float[Tensor, " feature"], Float[Tensor, " feature"]]:
        """Share of the forget and of the retain tokens, by feature; with facts in another order if given."""
        counts, tokens = (self.counts, self.tokens) if order is None else (self.counts[order], self.tokens[order])
        n = self.n_forget
        return counts[:n].sum(dim=0) / tokens[:n].sum(), counts[n:].sum(dim=0) / tokens[n:].sum()

    def shuffled(self, limits: Limits, times: int, seed: int) -> dict[str, Any] | None:
        """How much the found features fire, and how much when facts are dealt at random; None when that cannot be."""
        if self.why_not or not times:
            return None
        generator = torch.Generator().manual_seed(seed)
        orders = [torch.randperm(len(self.tokens), generator=generator) for _ in range(times)]
        here = limits.share(*self.shares())
        chance = np.array([limits.share(*self.shares(order)) for order in orders])
        return {
            "found_share": here,
            "by_chance": float(chance.mean()),
            "by_chance_95": float(np.quantile(chance, 0.95)),
            "p": float((1 + (chance >= here - 1e-12).sum()) / (1 + len(chance))),
        }
