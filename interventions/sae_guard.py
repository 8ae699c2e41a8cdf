"""What the guards on features of a sparse autoencoder (SAE) share: where it sits, what they count, how far they clamp.

Features are chosen by how often they fire on the tokens of the forget facts and of the retain facts (prompt and answer;
special tokens do not count). An SAE that is trained here sees the forget, near and far facts and the concept's text, as
the probe `sae_features` does with the same options, so a feature has one number in both.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from workbench.concepts import Concept, Fact
from workbench.errors import BadInput
from workbench.feature_choice import Tally, named_features, tally
from workbench.fitted_sae import FittedSae, ThroughSae
from workbench.intervention import Intervention
from workbench.model import HookedModel
from workbench.sites import Site

Progress = Callable[[int, float], None]
"""Called with the step of training an SAE (or how far the counting is, in such steps) and NaN: there is no loss."""

NONE_FIRES = (
    "No feature of the SAE fires on any forget token, so it does not describe them: train one here (leave out sae), or "
    "take another site"
)


class SaeGuard(ThroughSae, Intervention):
    """Options of a guard on features."""

    features: tuple[int, ...] = ()
    """Act on these features, by number, and choose none."""
    count: int = Field(20, ge=1)
    """How many features are chosen at most; the papers use 10 to 200."""
    c: float = Field(2.0, ge=0)
    """A clamped activation becomes minus this; 0 is zero ablation, which the papers find to do nothing. A large one
    silences whatever is said where the features fire, whichever feature is clamped there."""
    unit: Literal["mean", "absolute"] = "mean"
    """What `c` is a multiple of: the feature's mean activation where it fires on the facts, or 1 for every feature, as
    published (1 to 500)."""
    special: bool = False
    """Change special tokens at the beginning of a text too, as Farrell et al. do; SAEBench and DSG leave them alone."""
    drawn: int = 0
    """Seed of the random features of a control."""

    def opened(
        self, model: HookedModel, concept: Concept, where: Sequence[Site] | None, progress: Progress | None
    ) -> FittedSae:
        """The SAE, at a site that can be rewritten.

        Raises:
            BadInput: for more than one site, a part of one, or one that can only be read; for an SAE that does not fit.
        """
        place = self._place(where)
        if place is not None:
            model.require_writable(place)
        facts = [*concept.check().forget, *concept.near, *concept.far]
        told = None if progress is None else partial(_updates, progress)
        used = self.fitted(model, facts, concept.text, place=place, progress=told)
        model.require_writable(used.site)
        return used

    def tallied(
        self, model: HookedModel, used: FittedSae, sets: Sequence[Sequence[Fact]], progress: Progress | None
    ) -> list[Tally]:
        """How often every feature fires on sets of facts; progress is told only when no SAE had to be trained."""
        rows = [[encoded.ids for encoded in model.encode(facts)] for facts in sets]
        told = None
        if progress is not None and self.sae is not None:
            told = _Counting(progress, sum(map(len, rows)), self.steps)
        return [tally(model, used, one, told) for one in rows]

    def targets(self, there: Tally, features: Sequence[int]) -> Float[Tensor, " feature"]:
        """What clamped activations become."""
        scale = there.mean[list(features)] if self.unit == "mean" else torch.ones(len(features))
        return (-self.c * scale).float()

    def lead(self, model: HookedModel, facts: Sequence[Fact]) -> int:
        """Special tokens that every text begins with; they are left alone unless `special`."""
        special = set(model.tokenizer.all_special_ids)
        return min(next((i for i, token in enumerate(e.ids) if token not in special), 0) for e in model.encode(facts))

    def given(self, used: FittedSae) -> list[int]:
        """The features that the options name.

        Raises:
            BadInput: for features the SAE does not have.
        """
        return named_features(self.features, len(used.dictionary.decoder))

    def _place(self, where: Sequence[Site] | None) -> Site | None:
        """The site that was asked for, by option or as a place; None when nothing was said."""
        asked = list(dict.fromkeys([*(where or ()), *([Site.parse(self.site)] if self.site else [])]))
        parts = [site for site in asked if site.index is not None or site.part in ("head", "expert", "router")]
        if parts or len(asked) > 1:
            raise BadInput(
                f"An SAE reads one whole site, such as L2.resid_post or L2.mlp_out; got {', '.join(map(str, asked))}: "
                "give one such site, or none"
            )
        return asked[0] if asked else None


def numbers(values: Float[Tensor, " n"]) -> list[float]:
    """For notes."""
    return [round(float(value), 6) for value in values]


def _updates(progress: Progress, done: int, of: int) -> None:  # noqa: ARG001
    progress(done, float("nan"))


class _Counting:
    """Rows counted, told as steps."""

    def __init__(self, progress: Progress, rows: int, steps: int) -> None:
        self.progress, self.rows, self.steps, self.done = progress, rows, steps, 0

    def __call__(self, rows: int) -> None:
        self.done += rows
        self.progress(round(self.steps * self.done / max(self.rows, 1)), float("nan"))


def about(used: FittedSae, features: Sequence[int], forget: Tally, retain: Tally | None, lead: int) -> dict[str, Any]:
    """What notes say of an SAE and of the features chosen in it."""
    chosen = list(features)
    return {
        "site": str(used.site),
        "sae": used.notes(),
        "features": chosen,
        "forget_share": numbers(forget.share[chosen]),
        "retain_share": None if retain is None else numbers(retain.share[chosen]),
        "left_alone": f"the first {lead} tokens of a text" if lead else "no token",
    }
