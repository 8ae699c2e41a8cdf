"""Patching back: with the base model's neuron coefficients put in, do this model's own value vectors say the answer?

Source: Hong et al. 2024, "Dissecting fine-tuning unlearning" (EMNLP 2024), the knowledge recovery of its intervention
(a): the coefficients (inputs of the down-projection) of the original model are put into the unlearned one. Variant: all
layers at once instead of windows of five, at the subject's tokens and at every position that predicts the answer, and
the outcome is whether the answer is the greedy one instead of a ratio of logit errors.
Read it as: the donor says only *which* neurons fire; what they write is this model's. If the answers come back, they
were still stored and only no longer looked up. A model whose value vectors were cut out stays silent.
Does not show: knowledge stored outside the MLPs; a mixture of experts has no such place for its neurons here.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from workbench.concepts import FactSet
from workbench.errors import BadInput
from workbench.hooks import Rewrite, put
from workbench.model import HookedModel
from workbench.registry import Method
from workbench.scoring import chunks, score_batch
from workbench.sites import Site
from workbench.tokens import Encoded
from workbench.trace import Trace


def places(encoded: Sequence[Encoded]) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """Row and position of every subject token and of every position that predicts an answer token."""
    found = [
        (row, position)
        for row, e in enumerate(encoded)
        for position in sorted({*e.subject, *range(e.answer_start - 1, len(e.ids) - 1)})
    ]
    row, position = torch.tensor(found).T
    return row, position


class Coefficients(Method):
    """Neuron coefficients at the places that matter for the answers: what `PatchBack` takes from the base."""

    @torch.no_grad()
    def look(self, model: HookedModel, facts: FactSet) -> Trace:
        """Axes (layer, place, neuron).

        Raises:
            BadInput: for a model with a mixture of experts.
        """
        sites = neuron_sites(model)
        encoded, parts, start = model.encode(facts.facts), [], 0
        for batch, _ in chunks(encoded):
            row, position = places(encoded[start : start + len(batch.ids)])
            acts = model.run(batch, read=sites, logits=False).acts
            parts.append(torch.stack([acts[site][row, position] for site in sites]).float().cpu())
            start += len(batch.ids)
        values = torch.cat(parts, dim=1).numpy()
        labels = {
            "layer": tuple(map(str, sites)),
            "place": tuple(map(str, range(values.shape[1]))),
            "neuron": tuple(map(str, range(values.shape[2]))),
        }
        notes = {"model": model.name, "facts_digest": facts.digest}
        return Trace("coefficients", values, ("layer", "place", "neuron"), "activation", labels, notes)


class PatchBack(Method):
    """Exact-match accuracy with a donor's coefficients put in, in every layer at once."""

    @torch.no_grad()
    def look(self, model: HookedModel, facts: FactSet, donor: Trace) -> Trace:
        """1 or 0 a fact; `donor` is what `Coefficients` read from the base on the same facts.

        Raises:
            BadInput: when the donor's coefficients are of other facts or another shape of model.
        """
        sites, encoded = neuron_sites(model), model.encode(facts.facts)
        row, _ = places(encoded)
        width = model.value_vectors(0).vectors.shape[0]
        if donor.notes.get("facts_digest") != facts.digest or donor.values.shape != (len(sites), len(row), width):
            raise BadInput(
                f"The coefficients {donor.values.shape} of {donor.notes.get('model')} do not fit {model.name} "
                f"({len(sites)} layers, {len(row)} places, {width} neurons): both models need the same architecture, "
                "tokenizer and facts"
            )
        values, start, done, greedy = torch.from_numpy(donor.values), 0, 0, []
        for batch, targets in chunks(encoded):
            row, position = places(encoded[start : start + len(batch.ids)])
            part = values[:, done : done + len(row)]
            rewrite: dict[Site, Rewrite] = {s: put(row, position, part[i]) for i, s in enumerate(sites)}
            greedy.append(score_batch(model, batch, targets, rewrite=rewrite).greedy.cpu())
            start, done = start + len(batch.ids), done + len(row)
        about = {**model.about(facts), "options": self.spec(), "donor": donor.notes.get("model")}
        back = torch.cat(greedy).double().numpy()
        return Trace("patch_back", back, ("fact",), "share of facts", {"fact": facts.labels}, about)


def neuron_sites(model: HookedModel) -> list[Site]:
    """The neurons of every layer.

    Raises:
        BadInput: for a model with a mixture of experts, whose neurons are no module boundary.
    """
    if model.mixture_layers:
        raise BadInput(f"{model.name} is a mixture of experts: its neurons' coefficients cannot be patched here")
    return [Site(layer, "mlp_act") for layer in range(model.n_layers)]
