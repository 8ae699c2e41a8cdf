"""RMU, representation misdirection for unlearning: hidden states of the forget facts are steered to a random direction.

Source: Li et al. 2024 (WMDP), https://arxiv.org/abs/2403.03218: at the output of one layer, squared distance of forget
tokens from c*u (u: one random unit vector, fixed for the run) plus alpha times that of retain tokens from what the
original model held there; only down-projections of the MLPs of that layer and the two below are trained. Adaptive RMU
(`AdaptiveRmu`, catalogued `adaptive_rmu`), Dang et al. 2025: c is `scale` times the mean norm the forget tokens had.
Variants: means are over the tokens of prompts and answers, without special tokens; `published` averages as the code of
WMDP, or of OpenUnlearning, does (`interventions.steering_loss`; the latter steers and holds answer tokens only, not
what the first of them is predicted from: with answers of one token the neighbours go too). The norm for c is over all
forget facts, not the first batch. No weight decay. A concept is one topic, with one vector. The pass ends at the layer.
Expect: answers gone with neighbours kept, and a mark: forget tokens near the norm c, along u (`notes["states"]`).
The published runs steer about a quarter of the way up, by c from 6.5 to 300: it must be well above the norm there.
Cannot do: remove what is below the layers it trains; taking the one direction out again, or a short training on
anything else, brings much back.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from interventions.gradient.descend import KEEP_EVERY, Progress
from interventions.retaining import retain_facts
from interventions.state_pairs import Told, along, bytes_of, collate_for, pairs, stored
from interventions.steering import Steering, down_projections
from interventions.steering_loss import Published, control_vector
from workbench.concepts import Concept
from workbench.edits import WeightEdit, fit_weights
from workbench.errors import BadInput
from workbench.intervention import Intervention
from workbench.model import HookedModel
from workbench.sites import Site, layers_of
from workbench.training import TrainingOptions

MOVED = ("mlp_out", "expert")
"""Parts that a site may name as what is trained."""


class Rmu(Intervention):
    """Steer hidden states of the forget facts to a random direction."""

    localised: ClassVar[bool] = True

    adaptive: bool = False
    """Take `scale` times the mean norm of the forget tokens' states for c; else `coefficient`."""
    coefficient: float = Field(20.0, gt=0)
    """c: the norm that forget tokens are to have. Models differ in what is large: read `notes["states"]`."""
    scale: float = Field(5.0, gt=0)
    """c in multiples of the norm there was, when `adaptive`."""
    alpha: float = Field(100.0, ge=0)
    """Weight of the retain loss; 0 leaves it out."""
    layer: int | None = None
    """Layer whose output is steered when no site says; a quarter of the way up when left out."""
    depth: int = Field(3, ge=1)
    """How many layers are trained when no site says: the steered one and those right below."""
    published: Published | None = None
    """Average as published code does: `wmdp` over every position, `open_unlearning` over labels, with its slip."""
    steps: int = Field(150, ge=1)
    """Number of updates."""
    lr: float = Field(5e-5, gt=0)
    """Learning rate of AdamW; small models need ten to a hundred times more."""
    batch_size: int = Field(4, ge=1)
    """Forget facts per update, and as many retain facts."""
    seed: int = 0
    """Seed of the direction, of the order of facts and of their pairing."""

    def fit(
        self,
        model: HookedModel,
        concept: Concept,
        where: Sequence[Site] | None = None,
        *,
        progress: Progress | None = None,
        keep: Path | None = None,
    ) -> WeightEdit:
        """Train on the concept and return what it changed.

        Args:
            model: unchanged afterwards.
            concept: forget and retain facts.
            where: states to steer (`L5.resid_post`), parts to train (`L5.mlp_out`, `L5.expert[3]`), or both. Steered is
                otherwise the output of the highest part; trained, the `depth` layers up to each state.
            progress: called after every step.
            keep: folder from which the same fit goes on after it was stopped.

        Raises:
            BadInput: for other sites, a layer that is not there, parts above every state, or nothing to retain.
        """
        sites, names = self._places(model, where)
        kept, note = retain_facts(concept, ", or set alpha=0") if self.alpha else ((), "")
        collate, vector = collate_for(model), control_vector(model.d_model, self.seed)
        before = stored(model, concept.forget.facts, sites)
        items = pairs(
            [Told(one.fact) for one in before],
            stored(model, kept, sites, padding=self.published == "wmdp"),
            self.seed,
        )
        norms = {site: along(before, site, collate, vector)["norm"] for site in sites}
        c = {site: self.scale * norms[site] if self.adaptive else self.coefficient for site in sites}
        loss = Steering(model, {site: c[site] * vector for site in sites}, self.alpha, self.published)

        asked = {
            "method": self.spec(),
            "concept": concept.digest,
            "model": model.identity,
            "sites": list(map(str, sites)),
        }
        kept_in: dict[str, Any] = {} if keep is None else {"keep": keep, "keep_every": KEEP_EVERY, "question": asked}

        def change() -> dict[str, Any]:
            log = model.train(items, collate, loss, self._options(), trainable=names, on_step=progress, **kept_in)
            after = stored(model, concept.forget.facts, sites)
            return {
                "trained": names,
                "c": {str(site): value for site, value in c.items()},
                "states": {
                    name: {str(site): along(told, site, collate, vector) for site in sites}
                    for name, told in (("forget_before", before), ("forget_after", after))
                },
                "warnings": [_weak(site) for site in sites if c[site] < 2 * norms[site]],
                "stored_bytes": bytes_of({id(pair.retain): pair.retain for pair in items if pair.retain}.values()),
                "retain": note,
                "losses": list(log.losses),
            }

        return fit_weights(model, names, change, self.spec(), partly=True)

    def _options(self) -> TrainingOptions:
        """No clipping of gradients: the published code has none."""
        return TrainingOptions(
            steps=self.steps, lr=self.lr, batch_size=self.batch_size, seed=self.seed, max_grad_norm=0
        )

    def _places(self, model: HookedModel, where: Sequence[Site] | None) -> tuple[list[Site], list[str]]:
        """The states that are steered and the parameters that are trained."""
        given = list(dict.fromkeys(where)) if where is not None else [self._default(model)]
        steered = sorted(site for site in given if site.part == "resid_post" and site.index is None)
        parts = [site for site in given if site.part in MOVED]
        if not given or len(steered) + len(parts) < len(given):
            raise BadInput(
                "RMU steers states like L5.resid_post and trains parts like L5.mlp_out or L5.expert[3]; got "
                f"{', '.join(map(str, given)) or 'no site at all'}"
            )
        steered = steered or [Site(layers_of(parts)[-1], "resid_post")]
        for site in steered:
            model.tap(site)
        (*_, top) = layers_of(steered)
        if above := [site for site in parts if site not in steered and layers_of([site])[0] > top]:
            raise BadInput(f"{above[0]} is above every steered state (L{top}.resid_post): training cannot reach it")
        below = {layer - i for layer in layers_of(steered) for i in range(self.depth) if layer >= i}
        return steered, down_projections(model, parts or [Site(layer, "mlp_out") for layer in sorted(below)])

    def _default(self, model: HookedModel) -> Site:
        last = model.n_layers - 1
        return Site(min(max(model.n_layers // 4, 1), last) if self.layer is None else self.layer, "resid_post")


class AdaptiveRmu(Rmu):
    """RMU whose c follows the norm that the forget tokens have, so that it means the same in any model and layer."""

    adaptive: bool = True
    """Take `scale` times the mean norm of the forget tokens' states for c; else `coefficient`."""
    alpha: float = Field(1200.0, ge=0)
    """Weight of the retain loss; 0 leaves it out."""
    steps: int = Field(500, ge=1)
    """Number of updates."""


def _weak(site: Site) -> str:
    return f"c at {site} is below twice the norm that forget tokens had there; a larger one steers them away"
