"""SAE feature suppression: where features that fire on the forget facts alone are active, push them below zero.

Source: Farrell, Lau and Conmy 2024, https://arxiv.org/abs/2410.19278 (selection and clamp as SAEBench computes them,
https://arxiv.org/abs/2503.09532). What the SAE does not explain is kept as it is. Variants: `choice="attribution"` is
their second route without its trial clamping of every feature; `action="scale"` and `"project"` are their other two
interventions; `choice="shifted"` is their control, which clamps feature j + 1 where j fires. Departures: `c` is in
multiples of the feature's mean activation (`unit="absolute"` as published), and the beginning-of-text token is left
alone, as in SAEBench (`special=True` as in the paper's own code).
Expect: zero ablation does little, because the model knows the rest by other features; at equal forgetting more is lost
than by training (the paper's biology questions). An SAE trained on a few hundred tokens finds only part of the facts.
With a large `c` the shifted control forgets as well: what was found is then where to push, not what. Projection acts at
every token, so features that are not orthogonal to what must stay take from it.
Cannot do: remove anything. It is a guard: without the hook all is there.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field

from interventions.retaining import retain_facts
from interventions.sae_guard import NONE_FIRES, Progress, SaeGuard, about, numbers
from workbench.concepts import Concept
from workbench.edits import HookEdit
from workbench.errors import BadInput
from workbench.feature_choice import Limits, Tally, drawn_like, require_count
from workbench.fitted_sae import FittedSae
from workbench.intervention import Intervention
from workbench.model import HookedModel
from workbench.operators import Operator
from workbench.sae_reading import feature_effects
from workbench.sites import Site


class SaeSuppression(SaeGuard):
    """Clamp, scale or project out features of a sparse autoencoder."""

    choice: Literal["frequency", "attribution", "random", "shifted", "all"] = "frequency"
    """Which features: most frequent on forget, or with the largest effect on its answers, of those that hardly fire on
    retain. Controls: as many random others that fire about as often; the neighbour by number of each; every one."""
    retain_threshold: float = Field(0.01, gt=0, le=1)
    """A chosen feature fires on less than this share of the retain tokens; the paper uses 0.01 and 0.001."""
    action: Literal["clamp", "scale", "project"] = "clamp"
    """What happens: an active feature becomes `-c`; it loses `m` times itself; `m` times the part of the value along
    its direction goes, at every token."""
    m: float = Field(1.0, ge=0)
    """Multiplier of `scale` (1 is zero ablation, 2 flips the sign) and `project`."""

    def fit(
        self,
        model: HookedModel,
        concept: Concept,
        where: Sequence[Site] | None = None,
        *,
        progress: Progress | None = None,
    ) -> HookEdit:
        """Choose the features and make the guard.

        Args:
            model: read only.
            concept: forget and retain facts.
            where: the site of the SAE; None for the option `site`, where the SAE was made, or the middle layer.
            progress: called while an SAE is trained, or while features are counted.

        Raises:
            BadInput: for an SAE that does not fit the model or the site, features it does not have, no facts to retain,
                or when no feature passes.
        """
        if self.choice == "shifted" and self.action != "clamp":
            raise BadInput(f"choice='shifted' is a control of action='clamp', not of {self.action!r}")
        retain, said = (
            ((), "none") if self._needs_no_retain(concept) else retain_facts(concept, ", or name the features")
        )
        used = self.opened(model, concept, where, progress)
        forget, kept = self.tallied(model, used, [concept.forget.facts, retain], progress)
        base = self._base(model, concept, used, forget, kept)
        features = self._controlled(base, forget + kept)
        lead = 0 if self.special else self.lead(model, concept.forget.facts)
        targets = self.targets(forget + kept, features)
        notes = {
            **about(used, features, forget, kept if retain else None, lead),
            "retain": said,
            "targets": numbers(targets) if self.action == "clamp" else None,
            **({"where_active": base} if self.choice == "shifted" else {}),
        }
        operator = self._operator(used, features, base, targets, lead)
        return HookEdit(model.identity, self.spec(), notes=notes, operators={used.site: operator})

    def controls(
        self,
        model: HookedModel,  # noqa: ARG002
        where: Sequence[Site] | None,
        seed: int = 0,
    ) -> Mapping[str, tuple[Intervention, Sequence[Site] | None]]:
        """As many random features, all features, and for the clamp the neighbours by number (the paper's control)."""
        kinds = ["random", "all", *(["shifted"] if self.action == "clamp" else [])]
        return {f"{kind} features": (self.model_copy(update={"choice": kind, "drawn": seed}), where) for kind in kinds}

    def _needs_no_retain(self, concept: Concept) -> bool:
        """Whether no choice is made, and there is nothing to count on either."""
        nothing = not (len(concept.retain) or len(concept.near) or len(concept.far))
        return nothing and (bool(self.features) or self.choice == "all")

    def _base(self, model: HookedModel, concept: Concept, used: FittedSae, forget: Tally, retain: Tally) -> list[int]:
        """The features that are named or chosen, before a control takes others in their place."""
        if self.features:
            return self.given(used)
        if self.choice == "all":
            return list(range(len(used.dictionary.decoder)))
        require_count(self.count, len(forget.fired))
        effects = None
        if self.choice == "attribution":
            effects = feature_effects(model, used.site, used.dictionary, model.encode(concept.forget.facts))
        found = Limits(retain_below=self.retain_threshold, keep=self.count).found(forget.share, retain.share, effects)
        if not found:
            raise BadInput(_none_found(forget, retain, self.retain_threshold))
        return found

    def _controlled(self, base: list[int], there: Tally) -> list[int]:
        if self.choice == "random":
            return drawn_like(base, there.fired, self.drawn)
        if self.choice == "shifted":
            return [(feature + 1) % len(there.fired) for feature in base]
        return list(range(len(there.fired))) if self.choice == "all" else base

    def _operator(
        self, used: FittedSae, features: list[int], base: list[int], targets: torch.Tensor, lead: int
    ) -> Operator:
        """What is done at the site."""
        beside = self.choice == "shifted"
        found = used.dictionary.whole.take([*features, *base] if beside else features)
        options: dict[str, Any] = {"lead": lead} if lead else {}
        if self.action == "project":
            tensors = {"decoder": found.tensors["decoder"], "centre": used.dictionary.bias.cpu()}
            return Operator("sae_project", torch.tensor(self.m), tensors=tensors, options=options)
        options |= {"kind": found.kind, **found.options, **({"beside": True} if beside else {})}
        name, main = ("sae_clamp", targets) if self.action == "clamp" else ("sae_scale", torch.tensor(1 - self.m))
        return Operator(name, main, tensors=found.tensors, options=options)


def _none_found(forget: Tally, retain: Tally, threshold: float) -> str:
    """Why no feature passes, and what would let one."""
    alive = forget.fired > 0
    if not alive.any():
        return NONE_FIRES
    least = float(retain.share[alive].min())
    return (
        f"All {int(alive.sum())} features that fire on the forget facts fire on at least {least:.3g} of the retain "
        f"tokens, none on less than {threshold:g}: a retain_threshold above {least:.3g} would find some"
    )
