"""Moved vectors: how far has each single value vector of the model moved from what the base stores?

Source: none to follow; the L2 distance is one of the intrinsic measures of Hong et al. 2024 (ConceptVectors),
https://arxiv.org/abs/2406.11614, who take it for found vectors. Variant: for every neuron of every MLP and of every
expert, over the length of the base's vector: |after - before| / |before|.
Read it as: 0, the same numbers; 1, as far as setting the vector to zero moves it; above 1, another vector, as in a
model trained anew (two vectors without relation and of one length lie 1.41 apart). A few bright entries are an edit
aimed at single neurons; a row as bright as another is training.
Does not show: what a vector writes, nor that a move has to do with the concept: a long way can change nothing about
the answers, and knowledge is also hidden by what happens before the value vectors. For found vectors, their tokens
and random ones beside them see `probes.vector_comparison`; for whole tensors `probes.weight_deltas`.
"""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from workbench.checkpoint import Checkpoint
from workbench.concepts import FactSet
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.registry import Method
from workbench.restoring import stored_value, stored_weights
from workbench.shards import Shards
from workbench.sites import Site
from workbench.trace import Trace
from workbench.value_vectors import ValueVectors


class MovedVectors(Method):
    """How far every value vector of the model moved from the base's, in lengths of the base's vector."""

    @torch.no_grad()
    def look(self, model: HookedModel, facts: FactSet, against: Checkpoint) -> Trace:
        """Axes (site, neuron), a site an MLP or an expert; NaN behind the last neuron of a narrower one.

        Args:
            model: the changed model.
            facts: what the reading is filed under; the numbers do not depend on it.
            against: the base's files.

        Raises:
            BadInput: when the model shows no value vectors, or the base stores them in another shape or not at all.
        """
        about = model.about(facts)
        with stored_weights(against) as shards:
            found = {str(site): _moved(before, after) for site, before, after in _pairs(model, shards)}
        if not found:
            raise BadInput(f"{model.name} shows no value vectors (`workbench doctor` says why)")
        widths = {site: len(moved) for site, (moved, _) in found.items()}
        values = np.full((len(found), max(widths.values())), np.nan, np.float32)
        for row, (moved, _) in zip(values, found.values(), strict=True):
            row[: len(moved)] = moved.cpu().numpy()
        labels = {"site": tuple(found), "neuron": tuple(map(str, range(values.shape[1])))}
        notes = {
            **about,
            "options": self.spec(),
            "against": against.name,
            "widths": widths,
            "from_zero": {site: from_zero for site, (_, from_zero) in found.items() if from_zero},
            "axes": {"site": "MLPs and experts", "neuron": "value vectors; one that was zero before has no number"},
        }
        return Trace("moved_vectors", values, ("site", "neuron"), "lengths of the base's vector", labels, notes)


def _pairs(
    model: HookedModel, shards: Shards
) -> Iterator[tuple[Site, Float[Tensor, "neuron d_model"], Float[Tensor, "neuron d_model"]]]:
    """Every MLP and expert with the base's value vectors and the model's own; one parameter is held at a time."""
    name, before = "", torch.zeros(0)
    for site, store in model.down_projections():
        if store.name != name:  # the experts of a layer lie in one parameter
            name, before = store.name, stored_value(model, store.name, shards)
        yield site, _rows(store, before, site), _rows(store, store.weight, site)


def _rows(store: ValueVectors, weight: Tensor, site: Site) -> Float[Tensor, "neuron d_model"]:
    """The vectors of one MLP or expert in a tensor shaped like the parameter."""
    rows = store.as_rows(weight)
    return rows if site.expert is None else rows[site.expert]


def _moved(
    before: Float[Tensor, "neuron d_model"], after: Float[Tensor, "neuron d_model"]
) -> tuple[Float[Tensor, " neuron"], list[int]]:
    """Distance over the old length, NaN where that is zero and the vector is not zero now; and which those are."""
    old, new = before.to(after.device).float(), after.float()
    distance, length = torch.linalg.vector_norm(new - old, dim=1), torch.linalg.vector_norm(old, dim=1)
    from_zero = (length == 0) & (distance > 0)
    share = torch.where(distance == 0, torch.zeros_like(distance), distance / length)
    share[from_zero] = torch.nan
    return share, from_zero.nonzero()[:, 0].tolist()
