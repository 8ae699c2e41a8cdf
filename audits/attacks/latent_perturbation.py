"""Universal latent perturbation: one vector added to a layer's stream, fitted on some facts, asked about the others.

Source: latent adversarial attacks, Sheshadri et al. 2024, https://arxiv.org/abs/2407.15549, and Che et al. 2025,
https://arxiv.org/abs/2502.05209: a perturbation of the residual stream of at most eps a token. Variant: one vector
for all facts and all tokens, where theirs is one for each example and token; that one re-teaches (on the toy of this
house it made a model that never learnt the facts say .81 of them at eps .5), this one has too few numbers to. Adam
with projection onto the ball; eps in units of the median length of a token's state.
Read it as: the curve over eps, held-out forget answers beside held-out never-taught ones.
Does not show: an unlearning that no single direction undoes.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from audits.attacks.attack import Told
from audits.attacks.climb import AnswerLoss, climb
from audits.attacks.halves import Trained
from audits.attacks.under import Attempt
from workbench.concepts import Concept, FactSet
from workbench.edits import HookEdit
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.operators import Operator
from workbench.scoring import chunks
from workbench.sites import Site
from workbench.trace import Trace


class LatentPerturbation(Trained):
    """One vector added inside."""

    threat: ClassVar[str] = (
        "Somebody has the weights, changes inner states, and knows some of the forget facts' answers."
    )

    eps: tuple[float, ...] = (0.3, 1.0)
    """Longest vectors tried, in median lengths of a token's state there; the last is the attack, the rest its curve."""
    layers: tuple[int, ...] | None = None
    """Blocks behind which a vector is added, each its own; None for the middle one."""
    steps: int = Field(40, ge=1)
    """Gradients."""
    lr: float = Field(0.2, gt=0)
    """First step, as a share of the ball's radius; the last is nothing."""

    def attempt(self, model: HookedModel, concept: Concept, held: FactSet, on_step: Told | None) -> Attempt:
        """Fitted on the held facts, at the largest eps."""
        return Attempt((self.fit(model, concept, held, on_step),))

    def look(self, model: HookedModel, concept: Concept, on_step: Told | None = None) -> Trace:
        """Whether held-out answers come out, at every eps.

        Returns:
            Axes (seed, step, fact), step being eps, the never-taught facts last (`notes["n_facts"]`).
        """
        self._require_sound(model)
        ways = [type(self)(**{**self.model_dump(), "eps": (eps,)}) for eps in self.eps]
        traces = [super(LatentPerturbation, way).look(model, concept, on_step) for way in ways]
        last = traces[-1]
        attacks = [{"eps": e, **row} for e, t in zip(self.eps, traces, strict=True) for row in t.notes["attacks"]]
        labels = {"seed": last.labels["seed"], "step": tuple(map(str, self.eps)), "fact": last.labels["fact"]}
        notes = {**last.notes, **self.about(), "attacks": attacks}
        values = np.stack([trace.values for trace in traces], axis=1)
        return Trace("latent_perturbation", values, ("seed", "step", "fact"), "share of facts", labels, notes)

    def fit(
        self, model: HookedModel, concept: Concept, held: FactSet | None = None, on_step: Told | None = None
    ) -> HookEdit:
        """The vectors, at the largest eps.

        Args:
            model: unchanged afterwards.
            concept: its forget facts, where none are given.
            held: facts whose answers are made likely.
            on_step: called after every gradient.

        Raises:
            BadInput: for layers the model does not have, or an eps that is not positive.
        """
        sites, encoded = self._require_sound(model), model.encode((held or concept.forget).facts)
        radius = max(self.eps) * torch.tensor([median_length(model, site, encoded) for site in sites])[:, None]
        radius = radius.to(model.device)
        loss = _Loss(AnswerLoss(model, encoded), tuple(sites), radius)
        zero = torch.zeros(len(sites), model.d_model, device=model.device)
        unit, losses = climb(loss, zero, steps=self.steps, lr=self.lr, project=into_ball, on_step=on_step)
        vectors = (unit * radius).cpu()
        operators = {site: Operator("add", vector) for site, vector in zip(sites, vectors, strict=True)}
        notes = {"losses": losses, "radius": radius[:, 0].tolist(), "held": len(encoded)}
        return HookEdit(model.identity, self.spec(), notes=notes, operators=operators)

    def _require_sound(self, model: HookedModel) -> list[Site]:
        if not self.eps or min(self.eps) <= 0:
            raise BadInput(f"eps must be positive numbers, got {self.eps}; 1 is as long as a token's state")
        layers = [model.n_layers // 2] if self.layers is None else sorted(set(self.layers))
        if not layers or layers[0] < 0 or layers[-1] >= model.n_layers:
            raise BadInput(f"Layers {self.layers} are not all in {model.name}, which has 0 to {model.n_layers - 1}")
        sites = [Site(layer, "resid_post") for layer in layers]
        for site in sites:
            model.require_writable(site)
        return sites


def into_ball(vectors: Float[Tensor, "n width"]) -> Float[Tensor, "n width"]:
    """Each vector at most of length 1."""
    return vectors / vectors.norm(dim=-1, keepdim=True).clamp(min=1)


@torch.no_grad()
def median_length(model: HookedModel, site: Site, encoded: list) -> float:
    """Median length of a token's state; the first token's is often far larger, so no mean."""
    lengths = []
    for batch, _ in chunks(encoded):
        acts = model.run(batch, read=[site], logits=False).acts[site]
        lengths.append(acts[batch.mask.to(acts.device)].float().norm(dim=-1).cpu())
    return float(torch.cat(lengths).median())


@dataclass(frozen=True, eq=False)
class _Add:
    vector: Tensor

    def __call__(self, value: Tensor) -> Tensor:
        return (value.to(self.vector.dtype) + self.vector.to(value.device)).to(value.dtype)


@dataclass(frozen=True, eq=False)
class _Loss:
    """Of vectors in units of the radius."""

    answers: AnswerLoss
    sites: tuple[Site, ...]
    radius: Tensor

    def __call__(self, unit: Tensor) -> Tensor:
        added = unit * self.radius
        return self.answers({site: _Add(added[i]) for i, site in enumerate(self.sites)})
