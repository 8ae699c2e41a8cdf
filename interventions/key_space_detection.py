"""Key Space Detection: abstain where the key of the last MLP lies in the region of the forget prompts' keys.

Source: Li et al. 2025 ("Effective Skill Unlearning through Intervention and Abstention", NAACL),
https://arxiv.org/abs/2503.21730. A key is the input of the last block's down-projection at the prompt's last token. The
box is mean plus or minus alpha * k * standard deviation over forget prompts, k the smallest factor that holds them all;
a prompt inside it in all dimensions is answered by a fixed text. `share` and `shape` are cheaper or rounder variants.
The published refusal looks at the first prompt of a batch only; that is not reproduced, because then what a prompt is
answered would depend on its neighbours. Nor is the variant that replaces the key by a vector: in the last block it
left the answers as they were on the model it was tried on.
In a mixture of experts without a shared one there is no such key: each expert has keys of its own, most of them 0.
There the residual stream entering the last MLP stands in for it (`where` names another site).
Expect: works where the prompts to forget are of another kind (a skill, a language). Facts of one format share their key
space with the facts to keep, and a trigger that fires on both is refused with the figures.
Cannot do: recognise a paraphrase, a translation or a prompt with text appended, all of which move the last token's key
(the notes have the rate on paraphrases). Nothing is removed.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from interventions.guards.prompts import (
    STILL_THERE,
    Halves,
    line_between,
    one_site,
    rates,
    readings,
    require_telling,
    to_forget,
    to_keep,
    warning,
    worded,
)
from interventions.key_space import KeyBox, KeyEllipsoid
from workbench.concepts import Concept, Fact
from workbench.edits import HookEdit
from workbench.errors import BadInput
from workbench.intervention import Intervention
from workbench.model import HookedModel
from workbench.sites import Site
from workbench.speech import Speech
from workbench.tokens import encode


class KeySpaceDetection(Intervention):
    """Abstain inside the forget keys' region."""

    alpha: float | None = Field(None, gt=0)
    """How far the region is widened; None tunes it on held-out prompts: the best balanced accuracy, half way (in
    logarithm) between two neighbouring prompts, the smallest on ties. Published values: 0.06 to 2."""
    shape: Literal["box", "mahalanobis"] = "box"
    """A box (published), or an ellipsoid."""
    share: float = Field(1.0, gt=0, le=1)
    """Share of the dimensions that must lie in the box; 1 as published."""
    shrinkage: float = Field(0.1, gt=0, le=1)
    """How far the ellipsoid's covariance is drawn towards a ball."""
    text: str = Field("Sorry, your query is not valid", min_length=1)
    """What is said instead."""
    held_out: float = Field(0.3, gt=0, lt=1)
    """Share of the prompts on which alpha is tuned and rates are read; the rest gives mean, deviation and k."""
    seed: int = 0
    """Seed of what is held out."""
    force: bool = False
    """Give the guard even if it cannot tell the prompts apart."""

    def fit(self, model: HookedModel, concept: Concept, where: Sequence[Site] | None = None) -> HookEdit:
        """Take the statistics and tune alpha.

        Args:
            model: only read.
            concept: forget facts, and retain facts (else near and far ones) to tune on.
            where: one other site to look at; None for the last block's key.

        Raises:
            BadInput: for too few prompts, another kind of site, or a region that prompts to keep lie in as well.
        """
        site = one_site(model, where, key_site(model))
        wanted = Halves.of(to_forget(concept, False), self.held_out, self.seed)
        kept, source = to_keep(concept, False)
        others = Halves.of(kept, self.held_out, self.seed)
        fitted = keys(model, wanted.fit, site)
        region = KeyBox.of(fitted, self.share) if self.shape == "box" else KeyEllipsoid.of(fitted, self.shrinkage)
        alpha = self.alpha or self._tuned(model, region, site, wanted.held, others.held)
        trigger = region.trigger(site, alpha)
        found = rates(model, trigger, _sets(concept, wanted, others))
        notes = {
            "site": str(site),
            "k": region.k,
            "alpha": alpha,
            "tuned": self.alpha is None,
            "prompts to keep": source,
        }
        if isinstance(region, KeyBox):
            notes["constant dimensions left out"] = int((~region.varied).sum())
        what = f"The key space at alpha {alpha:.3g}"
        notes |= {"balanced accuracy, held out": require_telling(found, what, self.force)}
        notes |= {"fires on": found, "warning": warning(found), "weights": STILL_THERE}
        told = model.prompted(wanted.fit[0]).model_copy(update={"answer": self.text})
        speech = Speech("abstain", {"text": torch.tensor(encode(model.tokenizer, told).answer)})
        return HookEdit(model.identity, self.spec(), notes=notes, trigger=trigger, speech=speech)

    def _tuned(
        self,
        model: HookedModel,
        region: KeyBox | KeyEllipsoid,
        site: Site,
        forget: Sequence[Fact],
        keep: Sequence[Fact],
    ) -> float:
        """The alpha that best parts held-out prompts."""
        low, high = (region.reach(keys(model, facts, site)).clamp(min=1e-6).log() for facts in (forget, keep))
        return float(torch.tensor(line_between(low, high), dtype=torch.float64).exp())


def key_site(model: HookedModel) -> Site:
    """What the last down-projection takes in; of a mixture its shared expert's, else what enters the last MLP.

    Raises:
        BadInput: when the model shows none of them.
    """
    last = model.n_layers - 1
    for part in ("mlp_act", "resid_mid", "resid_pre"):
        site = Site(last, part)
        if site in model.taps and str(site) not in model.withheld:
            return site
    raise BadInput(f"{model.name} shows neither the neurons of its last MLP nor what enters it")


def keys(model: HookedModel, facts: Sequence[Fact], site: Site) -> Float[Tensor, "fact width"]:
    """The site's value at each prompt's last token."""
    return torch.stack([value[-1] for value in readings(model, facts, site)])


def _sets(concept: Concept, wanted: Halves, others: Halves) -> dict[str, Sequence[Fact]]:
    """Every set whose rate the notes give."""
    reworded = worded(concept.forget.facts, True)[len(worded(concept.forget.facts, False)) :]
    return {
        "forget, fitted": wanted.fit,
        "forget, held out": wanted.held,
        "forget, reworded": reworded,
        "keep, held out": others.held,
        "near": concept.near.facts,
        "far": concept.far.facts,
    }
