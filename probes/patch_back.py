"""Patching back: which of the base model's neuron coefficients, or weights, bring the answers back into this one?

Source: Hong et al. 2024, "Dissecting fine-tuning unlearning" (EMNLP 2024), https://arxiv.org/abs/2410.06606: (a) the
coefficients (inputs of the down-projection) of the original model are put into the unlearned one, (b) the outputs of
its attention, (c) both, (d) its value vectors (down-projections) themselves; here also other weights. Variant: by
default all layers at once instead of windows of five (`layers="windows"`), at the subject's tokens and where an answer
token is predicted instead of everywhere (`everywhere`), on the fact's answer instead of 30 tokens the base wrote, and
the outcome is whether the answer is the greedy one. Their Knowledge Recovery Score, 1 - MSE(base, patched) / MSE(base,
unpatched) over the logits that predict the answer, is `outcome="recovery"` and in the notes (mean over facts).
Read it as: with coefficients the donor says only *which* neurons fire; what they write is this model's. If the answers
come back, they were still stored and only no longer looked up; cut-out value vectors stay silent. With weights: the
layers whose original weights bring the answers back are where they were changed so that it forgot. A recovery of 1 is
the base's logits, 0 no nearer to them than before; it has no lower bound.
Does not show: knowledge outside what was put back. In a mixture of experts the routing stays this model's own: an
expert gets the coefficients it had in the base, none where the base did not ask it, and what an expert said there that
is no longer asked stays unsaid (`not_routed` in the notes counts it).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.checkpoint import Checkpoint
from workbench.concepts import FactSet
from workbench.errors import BadInput
from workbench.hooks import Rewrite, put
from workbench.model import HookedModel
from workbench.recovery import Heard, recovery_of, why_none
from workbench.registry import Method
from workbench.restoring import digest_of_way_out, restored, stored_weights, way_out, weights_of
from workbench.scoring import Targets, chunks
from workbench.shards import Shards
from workbench.sites import Site
from workbench.tokens import Batch, Encoded
from workbench.trace import Trace

STATES: Mapping[str, tuple[Literal["mlp_act", "attn_out"], ...]] = {
    "coefficients": ("mlp_act",),
    "attention_states": ("attn_out",),
    "both": ("mlp_act", "attn_out"),
}
"""What is put back while the model runs, and the parts it is read at; everything else is weights."""


def places(encoded: Sequence[Encoded], everywhere: bool = False) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """Row and position of every subject token and of every position that predicts an answer token, or of every one."""
    found = [
        (row, position)
        for row, e in enumerate(encoded)
        for position in (
            range(len(e.ids)) if everywhere else sorted({*e.subject, *range(e.answer_start - 1, len(e.ids) - 1)})
        )
    ]
    row, position = torch.tensor(found).T
    return row, position


class Coefficients(Method):
    """Neuron coefficients at the places that matter for the answers: what `PatchBack` takes from the base."""

    parts: tuple[Literal["mlp_act", "attn_out"], ...] = ("mlp_act",)
    """What is read: neurons, what attention adds; nothing leaves only the last states, for the recovery score."""
    everywhere: bool = False
    """Read every position of the text, not only the subject's and those that predict the answer."""

    @torch.no_grad()
    def look(self, model: HookedModel, facts: FactSet) -> Trace:
        """Axes (site, place, neuron); narrower sites are filled up with 0, experts that never fire are left out.

        The last site is the last layer's residual state, from which `PatchBack` knows the base's logits.
        """
        about, widths = model.about(facts), widths_of(model, self.parts)
        last = Site(model.n_layers - 1, "resid_post")
        parts: dict[Site, list[Tensor]] = {site: [] for site in [*widths, last]}
        encoded, start = model.encode(facts.facts), 0
        for batch, _ in chunks(encoded):
            where = places(encoded[start : start + len(batch.ids)], self.everywhere)
            start += len(batch.ids)
            for site, states in _read(model, batch, list(parts), where).items():
                parts[site].append(states)
        found = {site: torch.cat(states) for site, states in parts.items()}
        kept = [site for site, states in found.items() if site.expert is None or bool(states.any())]
        width = max(found[site].shape[1] for site in kept)
        values = np.zeros((len(kept), len(found[last]), width), dtype=np.float32)
        for i, site in enumerate(kept):
            values[i, :, : found[site].shape[1]] = found[site].numpy()
        labels = {
            "site": tuple(map(str, kept)),
            "place": tuple(map(str, range(values.shape[1]))),
            "neuron": tuple(map(str, range(width))),
        }
        own = {str(site): found[site].shape[1] for site in kept}
        notes = about | {"options": self.spec(), "widths": own, "way_out": digest_of_way_out(model)}
        return Trace("coefficients", values, ("site", "place", "neuron"), "activation", labels, notes)


class PatchBack(Method):
    """Exact-match accuracy with the base's coefficients, attention states or weights put back, by layer or in all."""

    what: Literal["coefficients", "attention_states", "both", "value_vectors", "mlp", "attention", "layer"] = (
        "coefficients"
    )
    """What of the base is put in. While the model runs: its coefficients, what its attention adds, or both. Of its
    weights: the MLPs' value vectors, whole MLPs (experts and router), attention, or whole layers."""
    layers: Literal["all", "each", "windows"] = "all"
    """In all layers at once, in each alone, or in windows of five (two below to two above), as published."""
    everywhere: bool = False
    """Put coefficients back at every position of the text, as published, not only at the subject's and the answer's."""
    outcome: Literal["exact", "probability", "recovery"] = "exact"
    """What the trace holds: 1 where greedy decoding gives the answer, else 0; the geometric mean of its tokens'
    probabilities; or the Knowledge Recovery Score, NaN where this model's logits are the base's already."""

    def donor_reading(self) -> Coefficients:
        """What is read of the base first."""
        return Coefficients(parts=STATES.get(self.what, ()), everywhere=self.everywhere)

    @torch.no_grad()
    def look(self, model: HookedModel, facts: FactSet, donor: Trace, against: Checkpoint | None = None) -> Trace:
        """Axes (fact), or (layer, fact) with `layers` other than `all`.

        Args:
            model: the unlearned model.
            facts: what to ask it.
            donor: what `donor_reading()` read from the base on the same facts.
            against: the base's files, for putting weights back; else only for its unembedding, if that was changed.

        Raises:
            BadInput: when the donor is of other facts or another shape of model, or there is no `against` for weights.
        """
        self._require_fit(model, facts, donor)
        with ExitStack() as stack:
            shards = None if against is None else stack.enter_context(stored_weights(against))
            if self.what not in STATES and shards is None:
                raise BadInput(
                    f"Putting the base's {self.what} back needs its files: give the base with --against "
                    "(look(..., against=Checkpoint(base)))"
                )
            work = list(self._batches(model, facts, donor, shards))
            before = self._heard(model, work, [])
            after = {}
            for name, layers in self._windows(model.n_layers).items():
                names = [] if self.what in STATES or shards is None else weights_of(model, layers, self.what)
                with ExitStack() as lent:
                    if shards is not None and names:
                        lent.enter_context(restored(model, names, shards))
                    after[name] = self._heard(model, work, layers if self.what in STATES else [])
        return self._trace(model, facts, donor, before, after)

    # ---- what is put where

    def _windows(self, n_layers: int) -> dict[str, list[int]]:
        every = list(range(n_layers))
        if self.layers == "all":
            return {"all": every}
        reach = 2 if self.layers == "windows" else 0
        return {f"L{layer}": [other for other in every if abs(other - layer) <= reach] for layer in every}

    def _batches(self, model: HookedModel, facts: FactSet, donor: Trace, shards: Shards | None) -> "Iterator[_Batch]":
        """Facts with their part of the donor's states, and the base's logits where they can be known."""
        encoded, start, done = model.encode(facts.facts), 0, 0
        values, last = torch.from_numpy(donor.values), Site(model.n_layers - 1, "resid_post")
        for batch, targets in chunks(encoded):
            row, position = places(encoded[start : start + len(batch.ids)], self.everywhere)
            part = values[:, done : done + len(row)]
            start, done = start + len(batch.ids), done + len(row)
            states = {
                Site.parse(site): part[i, :, : donor.notes["widths"][site]]
                for i, site in enumerate(donor.labels["site"])
            }
            at = {place: i for i, place in enumerate(zip(row.tolist(), position.tolist(), strict=True))}
            answer = [at[place] for place in zip(targets.row.tolist(), targets.position.tolist(), strict=True)]
            base = _decode_base(model, states[last][answer], donor, shards)
            yield _Batch(batch, targets, row, position, states, base)

    def _heard(self, model: HookedModel, work: "Sequence[_Batch]", layers: Sequence[int]) -> Heard:
        """What the model says with the donor's states in these layers."""
        sites = widths_of(model, STATES.get(self.what, ())) if layers else {}
        last, parts = Site(model.n_layers - 1, "resid_post"), []
        for part in work:
            rewrite = {site: part.rewrite(site, width) for site, width in sites.items() if site.layer in layers}
            resid = model.run(part.batch, read=[last], rewrite=rewrite, logits=False).acts[last]
            logits = model.decode(resid[part.targets.row, part.targets.position]).float()
            parts.append(Heard.of(logits, part.targets, part.base))
        return Heard.joined(parts)

    # ---- what came of it

    def _trace(
        self, model: HookedModel, facts: FactSet, donor: Trace, before: Heard, after: Mapping[str, Heard]
    ) -> Trace:
        rounding = torch.finfo(model.unembedding.dtype).eps
        recovery = {name: recovery_of(before, heard, rounding) for name, heard in after.items()}
        held = {
            name: recovery[name] if self.outcome == "recovery" else getattr(heard, self.outcome)
            for name, heard in after.items()
        }
        unread = [name for name, score in recovery.items() if np.isnan(score).all()]
        notes: dict[str, Any] = {
            **model.about(facts),
            "options": self.spec(),
            "donor": donor.notes.get("model"),
            "unpatched": {"exact": float(before.exact.mean()), "probability": float(before.probability.mean())},
            "patched": {name: float(heard.exact.mean()) for name, heard in after.items()},
            "recovery": {name: None if name in unread else float(np.nanmean(s)) for name, s in recovery.items()},
            "no_recovery": int(np.isnan(next(iter(recovery.values()))).sum()),
            "why_no_recovery": why_none(before, next(iter(recovery.values()))),
        }
        if model.mixture_layers and "mlp_act" in STATES.get(self.what, ()):
            notes["not_routed"] = self._not_routed(model, facts, donor)
        units = {"exact": "share of facts", "probability": "probability", "recovery": "share of the logit error"}
        if self.layers == "all":
            values, axes = held["all"], ("fact",)
            return Trace("patch_back", values, axes, units[self.outcome], {"fact": facts.labels}, notes)
        labels = {"layer": tuple(held), "fact": facts.labels}
        return Trace("patch_back", np.stack(list(held.values())), ("layer", "fact"), units[self.outcome], labels, notes)

    def _not_routed(self, model: HookedModel, facts: FactSet, donor: Trace) -> float | None:
        """Of what the base's experts were asked, the share that this model asks no longer; None if nothing was."""
        asked = lost = 0
        for part in self._batches(model, facts, donor, None):
            routing = model.routing(part.batch)
            for site, states in part.states.items():
                if site.expert is not None and site.layer is not None:
                    chosen = routing[site.layer].chosen[part.row, part.position].cpu()
                    fired = states.any(dim=1)
                    asked += int(fired.sum())
                    lost += int((fired & ~(chosen == site.expert).any(dim=1)).sum())
        return lost / asked if asked else None

    def _require_fit(self, model: HookedModel, facts: FactSet, donor: Trace) -> None:
        own = widths_of(model, STATES.get(self.what, ()))
        row, _ = places(model.encode(facts.facts), self.everywhere)
        told = dict(donor.notes.get("widths", {}))
        last = str(Site(model.n_layers - 1, "resid_post"))
        wanted = {str(site): width for site, width in own.items()} | {last: model.d_model}
        dense = {str(site) for site in own if site.expert is None} | {last}
        fits = told.items() <= wanted.items() and dense <= told.keys()
        if donor.notes.get("facts_digest") != facts.digest or not fits or donor.values.shape[1] != len(row):
            raise BadInput(
                f"The coefficients {donor.values.shape} of {donor.notes.get('model')} do not fit {model.name} "
                f"({len(wanted)} sites, {len(row)} places): both models need the same architecture, tokenizer and "
                f"facts, and they must be read with {self.donor_reading()!r}"
            )


# ---- one batch


@dataclass(frozen=True, eq=False)
class _Batch:
    """Facts that are run together."""

    batch: Batch
    targets: Targets
    row: Int[Tensor, " place"]
    position: Int[Tensor, " place"]
    states: Mapping[Site, Float[Tensor, "place width"]]
    """What the base has at each site."""
    base: Float[Tensor, "answer vocab"] | None
    """The base's logits, where they can be known."""

    def rewrite(self, site: Site, width: int) -> Rewrite:
        """The donor's states at a site; 0 for an expert that the base asked at none of these places."""
        states = self.states.get(site)
        return put(self.row, self.position, torch.zeros(len(self.row), width) if states is None else states)


@dataclass(frozen=True, eq=False)
class _Gather:
    """Changes nothing and notes the value down at some places, so that no whole site is held in memory."""

    found: dict[Site, Tensor]
    site: Site
    row: Int[Tensor, " place"]
    position: Int[Tensor, " place"]

    def __call__(self, value: Tensor) -> Tensor:
        self.found[self.site] = value[self.row.to(value.device), self.position.to(value.device)].float().cpu()
        return value


def _read(
    model: HookedModel, batch: Batch, sites: Sequence[Site], where: tuple[Int[Tensor, " n"], Int[Tensor, " n"]]
) -> dict[Site, Float[Tensor, "place width"]]:
    """The values of sites at some places."""
    found: dict[Site, Tensor] = {}
    inside: dict[Site, Rewrite] = {site: _Gather(found, site, *where) for site in sites if site.expert is not None}
    acts = model.run(batch, read=[s for s in sites if s.expert is None], rewrite=inside, logits=False).acts
    return found | {site: value[where].float().cpu() for site, value in acts.items()}


def widths_of(model: HookedModel, parts: Sequence[Literal["mlp_act", "attn_out"]]) -> dict[Site, int]:
    """Every place in the model where such a part is, and how wide it is.

    Raises:
        BadInput: when a layer's neurons cannot be reached.
    """
    found: dict[Site, int] = {}
    if "mlp_act" in parts:
        if not reachable(model):
            raise BadInput(
                f"The MLP neurons of some layers of {model.name} cannot be reached, so their coefficients cannot be "
                "patched; put weights back instead (what='mlp')"
            )
        found |= {site: len(vectors) for site, vectors in model.mlps()}
    if "attn_out" in parts:
        found |= {Site(layer, "attn_out"): model.d_model for layer in range(model.n_layers)}
    return found


def _decode_base(
    model: HookedModel, last: Float[Tensor, "answer d_model"], donor: Trace, shards: Shards | None
) -> Float[Tensor, "answer vocab"] | None:
    """The base's logits from its last states: through this model's way out if it is the same, else from the files."""
    states = last.to(model.device, model.unembedding.dtype)
    if donor.notes.get("way_out") == digest_of_way_out(model):
        return model.decode(states).float()
    if shards is None:
        return None
    with restored(model, way_out(model), shards):
        return model.decode(states).float()


def reachable(model: HookedModel) -> bool:
    """Whether the neurons of every layer can be reached, so that their coefficients can be put back."""
    return {site.layer for site, _ in model.mlps()} == set(range(model.n_layers))
