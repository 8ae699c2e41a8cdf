"""Set-difference pruning: cut the neurons that matter to the forget answers and to nothing else.

Source: Lucki et al. 2024, https://arxiv.org/abs/2409.18025, after Wei et al. 2024, https://arxiv.org/abs/2402.05162:
neurons in the top q % of a Wanda-type score on the forget set and not in the top p % on utility are zeroed. Variant:
the score is what the answers' log-probability owes to the neuron's value vector (`workbench.neuron_attribution`; the
log-probability, so that a neuron which makes another word likelier counts too), and only neurons that speak
*against* the answers are cut, which is what an attacker wants, and only those that speak *for* near and far answers
are spared; `published=True` takes the size of the effect. A grid over q and p as published; the pair that makes the
held facts' answers likeliest is asked about the others.
Expect: an unlearning that added a few neurons' worth of refusal is undone. Cannot do: bring back what is not there.
Does not show: what cutting single weights would do.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from audits.attacks.attack import Told
from audits.attacks.halves import Trained
from audits.attacks.under import Attempt
from workbench.concepts import Concept, FactSet
from workbench.edits import WeightEdit, fit_weights
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.neuron_attribution import path_effects
from workbench.scoring import score
from workbench.sites import Site

Effects = Mapping[Site, Float[Tensor, " neuron"]]

PATH = 3
"""Points of the path along which effects are integrated."""


class PruneDifference(Trained):
    """Cut neurons that speak against the forget answers only."""

    threat: ClassVar[str] = "Somebody has the weights and some of the forget facts with their answers."

    most: int = Field(200, ge=1)
    """Facts fitted on, at most."""
    top: tuple[float, ...] = (0.005, 0.02, 0.05)
    """q: shares of the neurons, by effect on the forget answers, that may be cut."""
    spared: tuple[float, ...] = (0.05, 0.2)
    """p: shares of the neurons, by effect on near and far answers, that may not."""
    published: bool = False
    """Rank by the size of the effect on the forget answers, whichever its sign."""

    def attempt(self, model: HookedModel, concept: Concept, held: FactSet, on_step: Told | None) -> Attempt:
        """The best pair of the grid for the facts that are held."""
        return Attempt((self.fit(model, concept, held, on_step),))

    def fit(
        self, model: HookedModel, concept: Concept, held: FactSet | None = None, on_step: Told | None = None
    ) -> WeightEdit:
        """The pruned model that finds the held answers likeliest.

        Args:
            model: unchanged afterwards.
            concept: near and far facts say what must stay.
            held: facts the attacker has; None for all forget facts.
            on_step: called after every pair of the grid.

        Raises:
            BadInput: without near and far facts, or for shares outside 0 to 1.
        """
        facts, stay = held or concept.forget, (*concept.near, *concept.far)
        if not stay:
            raise BadInput(f"{concept.name} has no near or far facts, which say what must stay")
        if not self.top or not self.spared or not all(0 < s < 1 for s in (*self.top, *self.spared)):
            raise BadInput(f"top and spared are shares between 0 and 1, got {self.top} and {self.spared}")
        wanted, needed = (path_effects(model, some, PATH) for some in (facts.facts, stay))
        against = {site: effect.abs() if self.published else -effect for site, effect in wanted.items()}
        best: tuple[float, WeightEdit] | None = None
        for q in self.top:
            for p in self.spared:
                edit = self._cut(model, difference(against, needed, q, p, signed=not self.published), q, p)
                with edit.on(model):
                    found = float(score(model, facts.facts).logprob.mean())
                best = (found, edit) if best is None or found > best[0] else best
                if on_step:
                    on_step()
        assert best is not None
        return best[1]

    def _cut(
        self, model: HookedModel, chosen: Mapping[Site, Bool[Tensor, " neuron"]], q: float, p: float
    ) -> WeightEdit:
        stores = dict(model.down_projections())

        def change() -> dict[str, object]:
            with torch.no_grad():
                for site, neurons in chosen.items():
                    rows = stores[site].vectors if site.expert is None else stores[site].vectors[site.expert]
                    rows[neurons.to(rows.device)] = 0
            return {"neurons": sum(int(n.sum()) for n in chosen.values()), "top": q, "spared": p}

        return fit_weights(model, list({s.name: None for s in stores.values()}), change, self.spec())


def difference(
    against: Effects, needed: Effects, q: float, p: float, *, signed: bool
) -> dict[Site, Bool[Tensor, " neuron"]]:
    """Neurons among the top q of all by the first score and not among the top p by the second.

    Args:
        against: score on the forget answers, higher is cut first.
        needed: effect on the answers that must stay.
        q: share of all neurons.
        p: share of all neurons.
        signed: whether a neuron must score above zero, and one that speaks against what must stay is not spared; else
            the second counts by its size.
    """
    sites = list(against)
    forget = torch.cat([against[site].cpu() for site in sites])
    stay = torch.cat([needed[site].cpu() if signed else needed[site].cpu().abs() for site in sites])
    cut = _top(forget, q) & ~_top(stay, p)
    if signed:
        cut &= forget > 0
    return dict(zip(sites, cut.split([len(against[site]) for site in sites]), strict=True))


def _top(scores: Float[Tensor, " n"], share: float) -> Bool[Tensor, " n"]:
    count = max(1, int(share * len(scores)))
    return torch.zeros(len(scores), dtype=torch.bool).index_fill(
        0, scores.argsort(descending=True, stable=True)[:count], True
    )
