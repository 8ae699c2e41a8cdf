"""Causal trace: putting which inner state back restores an answer that a corrupted subject has destroyed?

Source: Meng et al. 2022 (ROME), https://arxiv.org/abs/2202.05262: corrupt the subject's token embeddings, restore one
clean state, read the answer. `replace` swaps in another subject of as many tokens instead of noise, as Zhang & Nanda
2024, https://arxiv.org/abs/2309.16042, recommend. `severed` is ROME's variant in which the MLPs (or attention) of later
layers stay as corrupted at the restored token, so that what they would make of the state does not count. Departures:
answers of many tokens are teacher forced; a position has one role (the code counts a one-token subject as first and as
last); each fact is corrupted by the same noise, as in the code.
Read it as: indirect effect, restored minus corrupted; the total effect (clean minus corrupted, in the notes) is its
natural ceiling. Single layers (`window=1`) are honest, windows inflate peaks. Intervals in the notes resample subjects.
Does not show: where to edit (Hase et al. 2023, https://arxiv.org/abs/2301.04213), nor which states are necessary; and
states that restore any subject look like states that hold this one: hold it against the same trace of the near facts.
Neurons of an expert are restored only where the corrupted text, too, is sent to that expert.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field

from probes.trace_cells import NOTHING, ROLES, Cell, Centring, by_role, heads_of, patched, roles_of, window_layers
from probes.trace_corruption import EMBED, Case, Corrupting
from probes.trace_metrics import UNITS
from probes.trace_samples import Traced, sample_notes
from workbench.attribution import neuron_effects
from workbench.concepts import FactSet
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.sites import Site, parse_sites
from workbench.stats import bootstrap
from workbench.trace import Trace

DRAWS = 1000
"""Resamples of an interval; there is one in every cell of the trace."""


@dataclass(frozen=True)
class Row:
    """What is restored together, and what it is called."""

    name: Site
    """Label in the trace."""
    sites: tuple[Site, ...]
    """What is put back."""


class CausalTrace(Corrupting):
    """Indirect effect of every layer and kind of state, by the role of the token."""

    parts: tuple[Literal["resid_post", "mlp_out", "attn_out", "head", "mlp_act"], ...] = (
        "resid_post",
        "mlp_out",
        "attn_out",
    )
    """Kinds of state to restore: the stream, what MLPs and attention add, single heads, the neurons of each MLP (or
    expert) together."""
    neurons: tuple[str, ...] = ()
    """Neurons, like L1.mlp_act[3] or L2.e5.mlp_act[7]: those of one MLP (or expert) are restored together, and in the
    notes all of them. They are then all that `mlp_act` restores."""
    largest: int = Field(default=0, ge=0)
    """Instead of naming neurons: the so many with the largest first-order effect on the answers' logit."""
    window: int = Field(default=1, ge=1)
    """Layers restored together, for MLP and attention; the residual stream, heads and neurons: always one layer."""
    centring: Centring = "published"
    """Where a window of even width w lies: l - w/2 to l + w/2 - 1 as in the published code (10: l-5 to l+4), one layer
    higher as in its paper, or symmetric with one layer more."""
    severed: Literal["none", "mlp_out", "attn_out"] = "none"
    """Hold the MLPs (or attention) of all later layers at their corrupted values at the restored tokens."""
    normalised: bool = False
    """Divide by the mean total effect over the facts, so that 1 is complete restoration."""

    @torch.no_grad()
    def look(self, model: HookedModel, facts: FactSet) -> Trace:
        """Trace every fact; one that cannot be traced is NaN, with the reason in the notes.

        Raises:
            BadInput: without facts, or for neurons that this model does not have.
        """
        facts = facts.model_copy(update={"facts": facts.facts[: self.max_facts]})
        about = model.about(facts)
        cases, why = self.cases(model, facts)
        rows, together = self._rows(model, [facts.facts[case.number] for case in cases])
        effects = np.full((len(rows) + len(together), len(ROLES), len(facts)), np.nan)
        clean, broken = np.full((2, len(facts)), np.nan)
        traced = {case.number: self._trace(model, case, [*rows, *together]) for case in cases}
        for f, one in traced.items():
            clean[f], broken[f], effects[:, :, f] = one.clean, one.corrupted.mean(), one.effects.mean(axis=0)
        total = clean - broken
        mean = float(total[~np.isnan(total)].mean()) if cases else None
        ceiling = 1.0 if not self.normalised else mean if mean is not None and abs(mean) > 1e-3 else np.nan
        effects /= ceiling
        labels = {"site": tuple(str(row.name) for row in rows), "role": tuple(ROLES), "fact": facts.labels}
        notes = self.skipped(facts, why) | {
            "options": self.spec(),
            "clean": _or_none(clean),
            "corrupted": _or_none(broken),
            "total_effect": _or_none(total),
            "mean_total_effect": mean,
            "total_effect_interval": _interval(total, facts.subjects),
            "intervals": intervals(effects[: len(rows)], facts.subjects),
            "neurons": {str(row.name): [str(site) for site in row.sites] for row in rows if _is_group(row)},
            "together": self._together(together, effects[len(rows) :], facts),
            "axes": {"role": ROLES, "site": "the state restored, or the middle of the window restored"},
            "noise": next((case.noise for case in cases), None),
            **sample_notes(traced, len(facts), len(rows), ceiling),
        }
        units = "share of the total effect" if self.normalised else UNITS[self.metric]
        return Trace("causal_trace", effects[: len(rows)], ("site", "role", "fact"), units, labels, about | notes)

    def _trace(self, model: HookedModel, case: Case, rows: Sequence[Row]) -> Traced:
        """Clean score, corrupted scores and indirect effects of one fact, a corrupted copy apart from the others."""
        roles = roles_of(case.encoded)
        cells = [NOTHING, Cell((EMBED,), case.encoded.subject)]  # nothing restored; everything restored
        cells += [Cell(row.sites, positions, self._held(row, model.n_layers)) for row in rows for _, positions in roles]
        scores = patched(model, case, cells).double()
        effects = (scores[2:] - scores[0]).T.reshape(len(case.measures), len(rows), len(roles))
        return Traced(case.instead, float(scores[1].mean()), scores[0].numpy(), by_role(effects, roles).numpy())

    def _held(self, row: Row, n_layers: int) -> tuple[Site, ...]:
        if self.severed == "none":
            return ()
        last = max(site.layer for site in row.sites if site.layer is not None)
        return tuple(Site(layer, self.severed) for layer in range(last + 1, n_layers))

    def _rows(self, model: HookedModel, facts: Sequence[Any]) -> tuple[list[Row], list[Row]]:
        """What is restored; and, where neurons of many MLPs were chosen, all of them at once."""
        rows = []
        for part in self.parts:
            for layer in range(model.n_layers) if part != "mlp_act" else ():
                rows += self._of_layer(model, Site(layer, part))
        groups = self._groups(model, facts)
        rows += [Row(sites[0] if len(sites) == 1 else name, sites) for name, sites in groups.items()]
        every = tuple(site for sites in groups.values() for site in sites if site.index is not None)
        return rows, [Row(every[0].whole, every)] if len(groups) > 1 and every else []

    def _of_layer(self, model: HookedModel, site: Site) -> list[Row]:
        assert site.layer is not None
        if site.part == "head":
            return [Row(head, (head,)) for head in heads_of(model, site)]
        width = 1 if site.part == "resid_post" else self.window
        layers = window_layers(site.layer, width, model.n_layers, self.centring)
        return [Row(site, tuple(Site(layer, site.part) for layer in layers))]

    def _groups(self, model: HookedModel, facts: Sequence[Any]) -> dict[Site, tuple[Site, ...]]:
        """The neurons to restore, by the MLP or expert they lie in."""
        if not (self.neurons or self.largest):
            return {mlp: (mlp,) for mlp, _ in model.mlps()} if "mlp_act" in self.parts else {}
        if self.neurons and self.largest:
            raise BadInput(
                f"causal_trace got both neurons ({', '.join(self.neurons[:3])}) and largest={self.largest}; give one"
            )
        chosen = list(parse_sites(self.neurons)) or (largest_neurons(model, facts, self.largest) if facts else [])
        model.stored_at(chosen)  # refuses what is no neuron of this model
        wholes = dict.fromkeys(site.whole for site in sorted(chosen))
        return {whole: tuple(site for site in sorted(set(chosen)) if site.whole == whole) for whole in wholes}

    def _together(self, rows: Sequence[Row], effects: np.ndarray, facts: FactSet) -> dict[str, Any] | None:
        """Effect of all chosen neurons at once, by role; None where they lie in one MLP or none were chosen."""
        if not rows:
            return None
        spans = {role: _interval(effects[0, i], facts.subjects) for i, role in enumerate(ROLES)}
        return {"neurons": [str(site) for site in rows[0].sites], "effect": spans}


def largest_neurons(model: HookedModel, facts: Sequence[Any], count: int) -> list[Site]:
    """The neurons that speak most for the answers, to first order (`workbench.attribution`), best first."""
    with torch.enable_grad():
        effects = neuron_effects(model, facts)
    every = [Site(mlp.layer, "mlp_act", i, mlp.expert) for mlp, effect in effects.items() for i in range(len(effect))]
    order = torch.cat([effect.cpu() for effect in effects.values()]).argsort(descending=True, stable=True)
    return [every[i] for i in order[:count].tolist()]


def intervals(effects: Float[np.ndarray, "site role fact"], subjects: Sequence[str]) -> dict[str, list[list[Any]]]:
    """95% interval of every mean over facts, resampling subjects; None where no fact was read."""
    found = [[_interval(cell, subjects) for cell in row] for row in effects]
    return {
        end: [[None if span is None else span[end] for span in row] for row in found] for end in ("low", "high", "n")
    }


def _interval(values: Float[np.ndarray, " fact"], subjects: Sequence[str]) -> dict[str, Any] | None:
    there = np.flatnonzero(~np.isnan(values)).tolist()
    if not there:
        return None
    return bootstrap(values[there], [subjects[i] for i in there], draws=DRAWS).estimate().model_dump()


def _is_group(row: Row) -> bool:
    return any(site.part == "mlp_act" and site.index is not None for site in row.sites)


def _or_none(values: Float[np.ndarray, " n"]) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]
