"""Which features fire on the facts to forget and hardly on the others, and how much of that is chance.

Source: the selection of Farrell, Lau and Conmy 2024, https://arxiv.org/abs/2410.19278, as SAEBench computes it
(https://arxiv.org/abs/2503.09532): drop features whose share of the retain tokens is at or above a threshold, sort the
rest by their share of the forget tokens, take the first n; a feature that never fires on forget is never taken.
The control is ours: whole facts are dealt at random to forget and retain, and the same selection is made again.
Read it as: `p` is the share of random deals in which the found features fire at least as much, added up.
Does not show: that features belong to the topic and not to its single subjects. Facts are dealt one by one, so one
subject's feature counts as special when all facts about that subject are in forget.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.sae_reading import FeatureReading


@dataclass(frozen=True)
class Limits:
    """When a feature is found."""

    forget_above: float = 0.0
    """It fires on more than this share of the forget tokens."""
    retain_below: float = 0.01
    """It fires on less than this share of the retain tokens."""
    keep: int = 20
    """How many are found at most."""

    def passes(self, forget: Float[Tensor, " feature"], retain: Float[Tensor, " feature"]) -> Bool[Tensor, " feature"]:
        """Whether a feature is within both."""
        return (forget > self.forget_above) & (retain < self.retain_below)

    def found(
        self,
        forget: Float[Tensor, " feature"],
        retain: Float[Tensor, " feature"],
        score: Float[Tensor, " feature"] | None = None,
    ) -> list[int]:
        """The features that pass, highest score first; without a score, by their share of the forget tokens."""
        passing = self.passes(forget, retain).nonzero()[:, 0]
        order = (forget if score is None else score)[passing].argsort(descending=True, stable=True)
        return [int(i) for i in passing[order][: self.keep]]

    def share(self, forget: Float[Tensor, " feature"], retain: Float[Tensor, " feature"]) -> float:
        """Forget shares of the found features, added up."""
        firing = torch.where(self.passes(forget, retain), forget, torch.zeros_like(forget))
        return float(firing.topk(min(self.keep, len(firing))).values.sum())


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
