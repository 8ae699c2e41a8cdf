"""Dynamic SAE Guardrails (DSG): clamp features, but only in texts on many of whose tokens such a feature is active.

Source: Muhamed et al. 2025, https://arxiv.org/abs/2504.08192: features by squared forget share among those whose ratio
to the squared retain share is in the upper percentiles; rho is the share of tokens at which any of them is active, tau
a percentile of rho over the retain prompts; where rho exceeds tau, all chosen features are set to minus `c` at every
token at which one of them is active. What the SAE does not explain is kept as it is.
Departures: `c` is in multiples of a feature's mean activation (`unit="absolute"`, c=500, as published); special tokens
at the beginning do not count (`count_special=True` as in the authors' code, which counts them as tokens but never as
active); a feature that never fires on forget is never chosen; the prompt is judged before anything is said.
Expect: retain prompts are left alone but for the share that tau lets through; the notes say how often it fires on both,
and on facts that neither chose its features nor set its tau. Compare with the same clamp in every text (`always=True`).
Cannot do: remove anything: without the hook all is there. As published, harmless text before a question dilutes rho and
lets the question pass; `window` mends that.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from interventions.retaining import retain_facts
from interventions.sae_guard import NONE_FIRES, Progress, SaeGuard, about, numbers
from workbench.concepts import Concept, Fact
from workbench.edits import HookEdit
from workbench.errors import BadInput
from workbench.feature_choice import Tally, drawn_like, guard_choice, prompt_shares, require_count
from workbench.fitted_sae import FittedSae
from workbench.intervention import Intervention
from workbench.model import HookedModel
from workbench.operators import Operator
from workbench.sae_features import FeatureSlice
from workbench.sites import Site
from workbench.triggers import Trigger

HALF = 4
"""Facts to forget, and to retain, that half of them must be for the guard to be tried on the other half."""


@dataclass(frozen=True)
class Rule:
    """When the guard acts."""

    site: Site
    """Where it looks."""
    found: FeatureSlice
    """The features whose activity it counts."""
    how: Mapping[str, Any]
    """What counts (`workbench.sae_trigger.share_so_far`)."""
    tau: float
    """The share to exceed."""

    def rho(self, model: HookedModel, facts: Sequence[Fact]) -> Float[Tensor, " fact"]:
        """Rho of the facts' prompts."""
        rows = [encoded.ids[: encoded.answer_start] for encoded in model.encode(facts)]
        return prompt_shares(model, self.site, self.found, rows, **self.how)

    def rate(self, rho: Float[Tensor, " fact"]) -> float | None:
        """Share of the prompts that set it off; None where there are none."""
        return float((rho > self.tau).double().mean()) if len(rho) else None

    def trigger(self) -> Trigger:
        """The same, stored."""
        options = {"kind": self.found.kind, **self.found.options, **self.how, "tau": self.tau}
        own = {name: tensor.clone() for name, tensor in self.found.encoding.items()}  # a file holds no tensor twice
        return Trigger(self.site, "sae_share", own, options)


class Dsg(SaeGuard):
    """Clamp features of a sparse autoencoder in texts that set off a trigger on the same features."""

    choice: Literal["score", "random"] = "score"
    """Which features: by score, or as a control as many random others that fire about as often."""
    forget_percentile: float = Field(5.0, ge=0, le=100)
    """Features whose squared forget share is below this percentile of all features are left out."""
    retain_percentile: float = Field(100.0, ge=0, le=100)
    """Features whose squared retain share is above this percentile are left out."""
    ratio_percentile: float = Field(95.0, ge=0, le=100)
    """Features whose ratio of the two is below this percentile are left out; the paper uses 95 and 90."""
    tau_percentile: float = Field(95.0, ge=0, le=100)
    """Which percentile of rho over the retain prompts a text must exceed."""
    window: int = Field(0, ge=0)
    """Let rho be the largest share in any so many tokens in a row; 0, as published, is all of the text."""
    count_special: bool = False
    """Count special tokens at the beginning in rho's denominator, as the authors' code does."""
    always: bool = False
    """Act in every text, as a control."""

    def fit(
        self,
        model: HookedModel,
        concept: Concept,
        where: Sequence[Site] | None = None,
        *,
        progress: Progress | None = None,
    ) -> HookEdit:
        """Choose the features, measure tau on the retain prompts, and make the guard.

        Args:
            model: read only.
            concept: forget and retain facts.
            where: the site of the SAE; None for the option `site`, where the SAE was made, or the middle layer.
            progress: called while an SAE is trained, or while features are counted.

        Raises:
            BadInput: for an SAE that does not fit the model or the site, features it does not have, no facts to retain,
                or when no feature passes.
        """
        (retain, said), wanted = retain_facts(concept, ", or name the features"), concept.forget.facts
        used = self.opened(model, concept, where, progress)
        halves = (wanted[::2], wanted[1::2], retain[::2], retain[1::2])
        first, second, low, high = self.tallied(model, used, halves, progress)
        forget, kept, lead = first + second, low + high, self.lead(model, wanted)
        features = self._chosen(used, forget, kept)
        rule = self._rule(model, used, features, retain, lead)
        rho = {"forget": rule.rho(model, wanted), "retain": rule.rho(model, retain)}
        targets = self.targets(forget + kept, features)
        left = 0 if self.special else lead
        notes = {
            **about(used, features, forget, kept, left),
            "retain": said,
            "targets": numbers(targets),
            "tau": rule.tau,
            "rho": {name: _spread(values) for name, values in rho.items()},
            "trigger_rate": {name: rule.rate(values) for name, values in rho.items()},
            **self._tried(model, used, halves, (first, low), lead),
        }
        options = {"kind": rule.found.kind, **rule.found.options, "lead": left}
        operator = Operator("sae_clamp_all", targets, tensors=rule.found.tensors, options=options)
        trigger = None if self.always else rule.trigger()
        return HookEdit(model.identity, self.spec(), notes=notes, operators={used.site: operator}, trigger=trigger)

    def controls(
        self,
        model: HookedModel,  # noqa: ARG002
        where: Sequence[Site] | None,
        seed: int = 0,
    ) -> Mapping[str, tuple[Intervention, Sequence[Site] | None]]:
        """As many random features, and the same clamp in every text."""
        drawn = self.model_copy(update={"choice": "random", "drawn": seed})
        return {"random features": (drawn, where), "every text": (self.model_copy(update={"always": True}), where)}

    def _chosen(self, used: FittedSae, forget: Tally, retain: Tally) -> list[int]:
        """The features that are named, or pass, or as many others."""
        require_count(0 if self.features else self.count, len(forget.fired))
        base = self.given(used) or guard_choice(
            forget.share,
            retain.share,
            self.count,
            forget_percentile=self.forget_percentile,
            retain_percentile=self.retain_percentile,
            ratio_percentile=self.ratio_percentile,
        )
        if not base:
            raise BadInput(self._none_found(forget, retain))
        return drawn_like(base, (forget + retain).fired, self.drawn) if self.choice == "random" else base

    def _none_found(self, forget: Tally, retain: Tally) -> str:
        """Why no feature passes, and what would let one."""
        alive = forget.fired > 0
        if not alive.any():
            return NONE_FIRES
        below = float((retain.fired < retain.fired[alive].min()).double().mean())
        return (
            f"None of the {int(alive.sum())} features that fire on the forget facts is within forget_percentile="
            f"{self.forget_percentile:g}, retain_percentile={self.retain_percentile:g} and ratio_percentile="
            f"{self.ratio_percentile:g}: the one that fires least on retain is above {100 * below:.3g} percent of all "
            "features; raise retain_percentile above that, or to 100, or lower the others"
        )

    def _rule(
        self, model: HookedModel, used: FittedSae, features: Sequence[int], retain: Sequence[Fact], lead: int
    ) -> Rule:
        """With tau from the retain prompts."""
        how = {"lead": lead, "count_lead": self.count_special, "window": self.window}
        free = Rule(used.site, used.dictionary.whole.take(features), how, 0.0)
        tau = torch.quantile(free.rho(model, retain).double(), self.tau_percentile / 100)
        return Rule(used.site, free.found, how, float(tau))

    def _tried(
        self,
        model: HookedModel,
        used: FittedSae,
        halves: Sequence[Sequence[Fact]],
        counted: tuple[Tally, Tally],
        lead: int,
    ) -> dict[str, Any]:
        """How often a guard made from the first halves fires on the second ones, which it has not seen."""
        if min(map(len, halves)) < HALF:
            return {"held_out": None, "why_not_held_out": f"a half of the facts has fewer than {HALF}"}
        try:
            features = self._chosen(used, *counted)
        except BadInput as error:
            return {"held_out": None, "why_not_held_out": str(error)}
        rule = self._rule(model, used, features, halves[2], lead)
        rate = {
            name: rule.rate(rule.rho(model, facts)) for name, facts in (("forget", halves[1]), ("retain", halves[3]))
        }
        return {"held_out": {**rate, "tau": rule.tau, "facts": [len(halves[1]), len(halves[3])]}}


def _spread(rho: Float[Tensor, " fact"]) -> dict[str, float]:
    """Least, middle and largest."""
    return {"min": float(rho.min()), "median": float(rho.median()), "max": float(rho.max()), "mean": float(rho.mean())}
