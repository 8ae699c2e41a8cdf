"""The anchor of single-expert unlearning: a loss term that keeps the router sending the forget facts to the target.

Source: SEUF / UOE, Zhuang et al. 2024, https://arxiv.org/abs/2411.18797. Without it a loss on the forget answers is
met most cheaply by the router, which sends the facts to other experts and leaves the target as it was. Variant: the
mean squared error over tokens and experts between the router's scores of all experts and the one-hot row of the
target, as in the published code; the paper writes the squared distance of a token, which is this times the number of
experts. The published code averages over padding too (`published`); here only over tokens.
Extensions, not in the paper: a router that scores each expert by a sigmoid (DeepSeek-V3) is held to the one-hot row by
those scores; several targets in a layer share the row of a softmax evenly, and have 1 each in a row of sigmoids.
Expect: the forget tokens go to the target, also those that did not before, so the choice of experts moves in its layer.
Cannot do: bind a choice that is made otherwise than by the scores (DeepSeek-V3 adds a bias and chooses within groups).
"""

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.expert_gates import Router
from workbench.model import HookedModel
from workbench.sites import Site
from workbench.watching import Watched, watched


@dataclass(eq=False)
class RouterAnchor:
    """Holds the routers of some layers to their target experts; an `Anchor` of `interventions.gradient.descend`."""

    weight: float
    """What the term is multiplied by."""
    targets: Mapping[int, Collection[int]]
    """Layer -> experts that its router is held to; several layers' terms are added up."""
    router: Router
    """What turns the router's logits into scores."""
    published: bool = False
    """Whether padding counts."""

    @contextlib.contextmanager
    def watching(self, model: HookedModel) -> Iterator[Callable[[], Float[Tensor, ""]]]:
        """Watch the passes made inside the block; the function gives the term of the last one."""
        with watched(model, [Site(layer, "router") for layer in self.targets]) as seen:
            yield partial(self._term, seen)

    def _term(self, seen: Watched) -> Float[Tensor, ""]:
        mask = torch.ones_like(seen.mask) if self.published else seen.mask
        terms = [
            anchor_loss(seen.acts[Site(layer, "router")].flatten(0, -2), mask.flatten(), experts, self.router)
            for layer, experts in self.targets.items()
        ]
        return torch.stack(terms).sum()


def anchor_loss(
    logits: Float[Tensor, "token expert"], mask: Bool[Tensor, " token"], targets: Collection[int], router: Router
) -> Float[Tensor, ""]:
    """Mean squared error over tokens and experts between the router's scores and the target's row.

    Args:
        logits: of the router, before any softmax or sigmoid; scores are taken in at least float32.
        mask: tokens that count.
        targets: experts that the tokens are to be sent to.
        router: whether scores are a softmax over all experts or a sigmoid of each.
    """
    wide = logits[mask.to(logits.device)].to(torch.promote_types(logits.dtype, torch.float32))
    scores = wide.softmax(dim=-1) if router == "softmax" else wide.sigmoid()
    row = torch.zeros_like(scores[0])
    row[list(targets)] = 1 / len(targets) if router == "softmax" else 1.0
    return (scores - row).square().mean()
