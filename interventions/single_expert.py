"""Single-expert unlearning: train one expert of a mixture, and the router before it, to give the answers no more.

Source: SEUF / UOE, Zhuang et al. 2024, https://arxiv.org/abs/2411.18797: one expert is chosen; its feed-forward weights
and all rows of the same layer's router are trained by any unlearning loss, and an anchor
(`interventions.router_anchor`) keeps the router sending the forget facts there. Variant: any gradient method of the
catalogue with its retain loss; learning rate, batch size and weights of loss and anchor are the paper's.
The expert: the paper takes the highest affinity of all layers together, which is traffic. Of 30 planted groups affinity
names the expert that holds the facts in 5, the size of the first-order effect in all 30, as knocking out does at many
times the cost: `gradient` is the default, and the notes give the published affinity beside it.
Expect: where one expert holds the facts, they fall there more than twice as far as in the last or a random expert at
equal steps. In freely trained mixtures the last falls least, but the busiest expert falls farthest and a random one may
pass the one of largest effect (try `affinity`). Given enough steps an expert that holds nothing hides the answers as
well: compare with the controls, early, and relearn. The anchor sends the forget tokens to the target, so the choice of
experts moves more with it than without (the notes say how far); at weight 10 it forgot .06 to .09 more on freely
trained mixtures, .26 less on planted ones, at weight 1 the same (`python -m bench.single_expert`).
Cannot do: reach what other experts, shared experts, attention or the embeddings hold; act on a dense model. Several
experts (`where`) are the paper's top-M, which it found worse than one.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from interventions import INTERVENTIONS
from interventions.gradient.descend import GradientMethod, Progress, descend
from interventions.router_anchor import RouterAnchor
from workbench.concepts import Concept, FactSet
from workbench.edits import WeightEdit
from workbench.errors import BadInput
from workbench.expert_choice import choice_of
from workbench.expert_effects import expert_sites
from workbench.expert_ranking import RankedBy, at_rank, measured_router, rank_of, ranking
from workbench.intervention import Intervention, sites_like
from workbench.model import HookedModel
from workbench.parameters import parameters_of
from workbench.sites import Site

SHOWN = 8
"""Experts of a ranking that the notes hold."""

SHARED = ("steps", "lr", "batch_size", "retain_weight", "seed")
"""Options that the loss's method takes from this one."""


class SingleExpert(Intervention):
    """Unlearn in one expert of a mixture, with its router anchored to it."""

    localised: ClassVar[bool] = True

    loss: str = "npo"
    """Gradient method of the catalogue that says what is made smaller on the forget facts."""
    loss_options: dict[str, Any] = {}
    """Options of that method beside those that stand here."""
    anchor: float = Field(1.0, ge=0)
    """Weight of the anchor; 0 leaves it out (the control)."""
    published: bool = False
    """Let the anchor count padding tokens too, as the published code does."""
    scores: Literal["measured", "softmax", "sigmoid"] = "measured"
    """What turns the router's logits into the scores the anchor holds; `measured` reads it off the weights used."""
    attribution: RankedBy = "gradient"
    """How the expert is chosen when no site is given: by the size of its first-order effect on the answers' logit, of
    the effect of knocking it out, or by the published affinity."""
    rank: int = 0
    """Which expert of that ranking is trained: 0 the best, -1 the last (the control)."""
    all_experts: bool = False
    """Train all experts of the layer (a control); the anchor stays with the chosen one."""
    train_router: bool = True
    """Train the router of the layer as well; without it there is nothing for the anchor to hold."""
    steps: int = Field(80, ge=1)
    """Number of updates."""
    lr: float = Field(1e-4, gt=0)
    """Learning rate of AdamW (no weight decay); small models need ten times more."""
    batch_size: int = Field(16, ge=1)
    """Forget facts per update; with a retain loss as many retain facts join them."""
    retain_weight: float = Field(1.0, ge=0)
    """Weight of the ordinary loss on retain facts; 0 leaves it out."""
    seed: int = 0
    """Seed of the order of facts and of their pairing."""

    def fit(
        self,
        model: HookedModel,
        concept: Concept,
        where: Sequence[Site] | None = None,
        *,
        progress: Progress | None = None,
        keep: Path | None = None,
    ) -> WeightEdit:
        """Train the expert, and return what changed.

        Args:
            model: a mixture of experts; unchanged afterwards.
            concept: forget and retain facts.
            where: experts (`L2.expert[5]`); several are the paper's top-M. None chooses one by `attribution`.
            progress: called after every step.
            keep: folder from which the same fit goes on after it was stopped.

        Raises:
            BadInput: for a dense model, sites that are no experts, or a loss that is no gradient method.
        """
        method = self._method()
        if not model.mixture_layers:
            raise BadInput(
                f"{model.name} is a dense model and has no experts to train: use a mixture of experts, or "
                f"unlearn by {self.loss} with parts like L3.mlp_out as sites"
            )
        experts, about = self._experts(model, concept, where)
        layers = sorted({site.layer for site in experts if site.layer is not None})
        trained = [Site(layer, "expert") for layer in layers] if self.all_experts else experts
        routers = [Site(layer, "router") for layer in layers] if self.train_router else []
        names = parameters_of(model, [*trained, *routers])
        held = {name: facts for name, facts in (("forget", concept.forget), ("near", concept.near)) if len(facts)}
        before = {name: choice_of(model, facts.facts) for name, facts in held.items()}
        edit = descend(
            model,
            concept,
            method,
            names,
            {"where": [str(site) for site in [*trained, *routers]], **about},
            anchor=self._anchor(model, concept.forget, experts),
            made_by=self.spec(),
            progress=progress,
            keep=keep,
        )
        with edit.on(model):
            after = {name: choice_of(model, facts.facts) for name, facts in held.items()}
        shift = {name: after[name].shift(before[name], experts) for name in held}
        return replace(edit, notes={**edit.notes, "routing": shift})

    def controls(
        self, model: HookedModel, where: Sequence[Site] | None, seed: int = 0
    ) -> Mapping[str, tuple[Intervention, Sequence[Site] | None]]:
        """As many random experts, all experts of the layer, and, for a single expert, the last of the ranking."""
        every = self.model_copy(update={"all_experts": True})
        last = self.model_copy(update={"rank": -1})
        if where is not None:
            found = {"random expert": (self, sites_like(model, where, seed)), "all experts": (every, where)}
            return found if len(where) > 1 else {**found, "last expert": (last, None)}
        others = set(range(len(expert_sites(model)))) - {self.rank % len(expert_sites(model))}
        drawn = self.model_copy(update={"rank": random.Random(seed).choice(sorted(others))})
        return {"random expert": (drawn, None), "all experts": (every, None), "last expert": (last, None)}

    def _method(self) -> GradientMethod:
        """The method whose loss is trained."""
        kind = INTERVENTIONS.load(self.loss)
        if not _can_lend(kind):
            those = ", ".join(name for name in INTERVENTIONS if _can_lend(INTERVENTIONS.load(name)))
            raise BadInput(f"loss={self.loss!r} has no loss that could be trained in one expert; those have: {those}")
        own = [name for name in self.loss_options if name in SHARED]
        if own:
            raise BadInput(f"{own[0]} is an option of single_expert itself: give {own[0]}=..., not in loss_options")
        method: GradientMethod = kind(**{name: getattr(self, name) for name in SHARED}, **self.loss_options)
        return method

    def _experts(
        self, model: HookedModel, concept: Concept, where: Sequence[Site] | None
    ) -> tuple[list[Site], dict[str, Any]]:
        """The experts to train, and what to say about the choice."""
        affinity = ranking(model, concept.forget.facts, "affinity")
        if where is not None:
            experts = _given(where, self.rank)
            parameters_of(model, experts)  # refuses experts that are not there
            chosen: dict[str, Any] = {"by": "given"}
        else:
            by = self.attribution
            order = affinity if by == "affinity" else ranking(model, concept.forget.facts, by)
            experts = [at_rank(order, self.rank)]
            chosen = {"by": by, "rank": rank_of(order, experts[0]), "of": len(order), "best": _first(order)}
        places = {str(site): rank_of(affinity, site) for site in experts}
        published = {"best": _first(affinity), "rank_of_trained": places}
        return experts, {"experts": [str(site) for site in experts], "attribution": chosen, "affinity": published}

    def _anchor(self, model: HookedModel, facts: FactSet, experts: Sequence[Site]) -> RouterAnchor | None:
        """The term that holds the routers; None when it is off or there is no router to train."""
        if not self.anchor or not self.train_router:
            return None
        router = measured_router(model, facts.facts) if self.scores == "measured" else self.scores
        if router is None:
            raise BadInput(
                f"The routing weights of {model.name} follow neither a softmax nor a sigmoid of its router, so it is "
                "not known what the anchor should hold: set scores='softmax' or scores='sigmoid', or anchor=0"
            )
        targets: dict[int, list[int]] = {}
        for site in experts:
            assert site.layer is not None and site.index is not None
            targets.setdefault(site.layer, []).append(site.index)
        return RouterAnchor(self.anchor, targets, router, self.published)


def _can_lend(kind: type[Any]) -> bool:
    """Whether a method of the catalogue is a loss in the common loop, and no loop of its own."""
    return issubclass(kind, GradientMethod) and kind.fit is GradientMethod.fit


def _given(where: Sequence[Site], rank: int) -> list[Site]:
    """The experts that were named.

    Raises:
        BadInput: for what is no expert, and for a rank where there is nothing to rank.
    """
    other = [site for site in where if site.part != "expert" or site.index is None]
    if other or not where:
        raise BadInput(
            f"single_expert trains experts like L2.expert[5], got {', '.join(map(str, other)) or 'no site at all'}: "
            "name one, or give no site to have it chosen"
        )
    if rank:
        raise BadInput(f"rank={rank} chooses an expert of a ranking, but {where[0]} was given: leave one of them out")
    return list(dict.fromkeys(where))


def _first(order: Mapping[Site, float]) -> dict[str, float]:
    return {str(site): round(value, 6) for site, value in list(order.items())[:SHOWN]}
