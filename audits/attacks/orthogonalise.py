"""Orthogonalisation: take out of the residual stream the direction along which unlearning moved the forget prompts.

Source: Lucki et al. 2024, https://arxiv.org/abs/2409.18025 (after Arditi et al. 2024,
https://arxiv.org/abs/2406.11717): in every layer d is the unit mean difference between the unlearned and the
original model's states on forget prompts, and h becomes h - (h d) d at every token. Here the states are those that
predict the answers' tokens. Without the original model's states the difference is that between forget and near
prompts of the audited model, which is weaker. `form="weights"` folds one direction, that of one layer, out of every
matrix that writes to the stream, the embeddings and fused experts included.
Expect: undoes an unlearning that writes one steering direction (RMU). Cannot do: bring back what no later layer
reads.
Does not show: what an attacker without the original model could do, when its states were given.
"""

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from audits.attacks.attack import Attack, Told, control_of
from audits.attacks.halves import divisions, prompts_of
from audits.attacks.under import Attempt, together, under
from probes.depth_score import States
from workbench.concepts import Concept, FactSet
from workbench.edits import HookEdit, WeightEdit, fit_weights
from workbench.erasure import Eraser
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.operators import Operator
from workbench.scoring import chunks
from workbench.sites import Site
from workbench.trace import Trace
from workbench.writers import fold, parts_of, writers_of

NOTHING = 1e-5
"""A mean difference of less than this share of the mean state's length is rounding: the layer was not moved."""

LEFT = 1e-3
"""Share of the stream's length that may still lie along a direction that was folded out of the weights."""

Means = Float[Tensor, "layer d_model"]


class Orthogonalise(Attack):
    """Project the mean difference out of the residual stream."""

    threat: ClassVar[str] = (
        "Somebody has the weights, prompts of some forget facts, and the original model (or, without it, near prompts)."
    )

    form: Literal["stream", "weights"] = "stream"
    """`stream`: each layer's own direction, at every layer, while the model runs (published). `weights`: the direction
    of one layer, folded into everything that writes."""
    layer: int | None = Field(None, ge=0)
    """For `weights`: whose direction; None for the layer that was moved most, for its length."""
    share: float = Field(0.5, gt=0, lt=1)
    """Share of the subjects whose prompts the direction is fitted on; the others are asked, then the reverse."""
    seed: int = 0
    """Of the division."""

    def attempts(self, model: HookedModel, concept: Concept, base: Trace | None = None) -> Iterator[Attempt]:
        """One for each half of the forget prompts, and of the never-taught ones.

        Raises:
            BadInput: when the base's states are of other facts, or there is nothing to compare with.
        """
        before = None if base is None else _by_fact(base, concept)
        everyone = together(concept.forget, control_of(concept))
        known = everyone if before is None else everyone.take(sorted(before), "known")
        now = states_of(model, known)
        of_base = None if before is None else [before[i] for i in sorted(before)]
        for half in divisions(concept, self.share, self.seed, True):
            rows = [i for i, fact in enumerate(known) if fact.prompt in prompts_of(half.held)]
            if not rows:
                continue  # the base's states of the control facts were not given; see below
            asked = prompts_of(half.rest)
            if len(known) == len(concept.forget):  # then they are asked with the forget facts' directions
                asked |= prompts_of(concept.never_taught)
            after = torch.cat([now[i] for i in rows], dim=1).mean(dim=1)
            other = None if of_base is None else torch.cat([of_base[i] for i in rows], dim=1).mean(dim=1)
            yield Attempt((self.fit(model, concept, after, other),), asked)

    def look(
        self,
        model: HookedModel,
        concept: Concept,
        on_step: Told | None = None,  # noqa: ARG002
        base: Trace | None = None,
    ) -> Trace:
        """Whether each forget answer comes out, the never-taught facts behind them.

        Args:
            model: unchanged afterwards.
            concept: forget and never-taught facts; near facts when no base is given.
            on_step: not called; the attack is short.
            base: what `States` read of the original model on the forget facts, or on forget and never-taught facts.
        """
        compared = {"compared with": "near prompts of the same model" if base is None else "the original model"}
        with self.at(model):
            attempts, notes = self.attempts(model, concept, base), {**self.about(), **compared}
            return under(model, attempts, concept.forget, control_of(concept), notes)

    def fit(
        self, model: HookedModel, concept: Concept, after: Means | None = None, before: Means | None = None
    ) -> HookEdit | WeightEdit:
        """The projection.

        Args:
            model: unchanged afterwards.
            concept: its near prompts are what is compared with when no `before` is given.
            after: mean states of the forget prompts in this model; None to read them, of all forget facts.
            before: mean states of the same prompts in the original model.

        Raises:
            BadInput: without near prompts and without an original, or where `weights` cannot be folded.
        """
        if after is None:
            after = torch.cat(states_of(model, concept.forget), dim=1).mean(dim=1)
        if before is None:
            if not len(concept.near):
                raise BadInput(
                    f"{concept.name} has no near facts: give the original model's states (`base`), or near facts"
                )
            before = torch.cat(states_of(model, concept.near), dim=1).mean(dim=1)
        moved, length = after.double() - before.double(), before.double().norm(dim=1)
        far = moved.norm(dim=1) / length.clamp(min=1e-12)
        notes = {"moved": [round(x, 6) for x in far.tolist()]}
        directions = torch.nn.functional.normalize(moved, dim=1).float()
        if self.form == "stream":
            operators = {
                Site(layer, "resid_post"): Operator("project_out", directions[layer][None])
                for layer in range(model.n_layers)
                if far[layer] > NOTHING
            }
            return HookEdit(model.identity, self.spec(), notes=notes, operators=operators)
        layer = int(far.argmax()) if self.layer is None else self.layer
        if layer >= model.n_layers:
            raise BadInput(f"There is no layer {layer}; {model.name} has 0 to {model.n_layers - 1}")
        return self._folded(
            model, concept, directions[layer] if far[layer] > NOTHING else None, {**notes, "layer": layer}
        )

    def _folded(
        self, model: HookedModel, concept: Concept, direction: Float[Tensor, " d_model"] | None, notes: dict[str, Any]
    ) -> WeightEdit:
        if direction is None:
            return WeightEdit(model.identity, self.spec(), notes=notes, changes={})
        parts = parts_of(model, None)
        tables = embeddings_of(model)
        names = [n for part in parts for w in writers_of(model, part) for n in (w.name, w.bias) if n is not None]

        def change() -> dict[str, Any]:
            d = direction.double().to(model.device)[:, None]
            eraser = Eraser(d, d, torch.zeros(len(d), dtype=torch.float64, device=model.device))
            for part in parts:
                fold(model, part, eraser)
            with torch.no_grad():
                for name in tables:
                    model.parameter(name).copy_(eraser(model.parameter(name)))
            left = along(model, concept, direction)
            if left > LEFT:
                raise BadInput(
                    f"{left:.2g} of the stream of {model.name} still lies along the direction after it was folded "
                    "out of the weights: tied embeddings, or parts that write in another way. Use "
                    "form='stream'"
                )
            return {**notes, "left": left, "tensors": len(names) + len(tables)}

        return fit_weights(model, [*names, *tables], change, self.spec())


def embeddings_of(model: HookedModel) -> list[str]:
    """Tables outside the blocks that write to the stream (tokens, positions); the unembedding is none, tied or not."""
    inside = tuple(model.tap(Site(layer, "resid_post")).path + "." for layer in range(model.n_layers))
    outside = [name for name in model.parameter_names() if not name.startswith(inside)]
    reads = model.unembedding
    return [
        name
        for name in outside
        if (table := model.parameter(name)).ndim == 2 and table.shape[-1] == model.d_model and table is not reads
    ]


@torch.no_grad()
def along(model: HookedModel, concept: Concept, direction: Float[Tensor, " d_model"]) -> float:
    """Largest share of the stream's length that lies along a direction, over layers and forget prompts."""
    sites, found = list(model.stream.values()), 0.0
    for batch, _ in chunks(model.encode(concept.forget.facts)):
        acts = model.run(batch, read=sites, logits=False).acts
        for site in sites:
            states = acts[site][batch.mask].double()
            share = (states @ direction.to(states)).abs() / states.norm(dim=-1).clamp(min=1e-12)
            found = max(found, float(share.max()))
    return found


def states_of(model: HookedModel, facts: FactSet) -> list[Float[Tensor, "layer token d_model"]]:
    """States after every block at the positions that predict each fact's answer."""
    return _split(States().look(model, facts), len(facts))


def _by_fact(base: Trace, concept: Concept) -> dict[int, Tensor]:
    """The base's states of each fact, by its number among forget and never-taught facts."""
    both = together(concept.forget, control_of(concept))
    for facts in (concept.forget, both):
        if base.notes.get("facts_digest") == facts.digest:
            return dict(enumerate(_split(base, len(facts))))
    raise BadInput(
        "The original model's states are of other facts: read them with `States` on the concept's forget facts, or on "
        "forget and never-taught facts together"
    )


def _split(trace: Trace, facts: int) -> list[Tensor]:
    owners = np.array([int(label.partition("@")[2]) for label in trace.labels["token"]])
    values = torch.from_numpy(np.asarray(trace.values))
    return [values[:, torch.from_numpy(owners == i)] for i in range(facts)]
