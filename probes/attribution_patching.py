"""Attribution patching: an estimate of the effect of every patch at once, from two forward passes and one backward.

Source: Nanda 2023, https://www.neelnanda.io/mechanistic-interpretability/attribution-patching, and AtP* (Kramar et al.
2024, https://arxiv.org/abs/2403.00745). This is the plain first-order form: (clean - corrupted) times the gradient of
the metric, summed over the state. `at="corrupted"` estimates what putting the clean state back restores (as Nanda's
notebook); `at="clean"` what putting the corrupted state in destroys (as Guo et al. 2024,
https://arxiv.org/abs/2410.12949, localise). Not here: AtP*'s recomputed softmax and GradDrop.
Read it as: an estimated indirect effect, in units of the metric. The true effects of the `verify` strongest cells, and
of as many drawn at random, are in the notes with the correlations; where those are low, take `causal_trace`. Good for
small parts (heads, neurons), poor for the residual stream and the first MLP.
Does not show: what only a whole step reveals, such as saturated attention or a metric that is flat where the gradient
is taken; nor an expert to which the text of the gradient is not sent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from probes.trace_cells import NOTHING, ROLES, Cell, Into, by_role, heads_of, patched, roles_of
from probes.trace_corruption import EMBED, Case, Corrupting
from probes.trace_metrics import UNITS, Metric
from workbench.concepts import FactSet
from workbench.errors import BadInput
from workbench.hooks import Chain, Rewrite, put
from workbench.model import HookedModel
from workbench.sites import Site
from workbench.tokens import pad
from workbench.trace import Trace

Part = Literal["embed", "resid_post", "mlp_out", "attn_out", "head", "mlp_act"]

FEWEST = 3
"""Pairs below which a correlation says nothing."""


class AttributionPatching(Corrupting):
    """Estimated indirect effect of every state, head and neuron, by the role of the token."""

    metric: Metric = "logit_difference"
    """The logit difference to a wrong answer (the stand-in's, or a distractor) does not saturate, so its gradient
    tells most; probability, log-probability and KL divergence to the clean run are there for comparison."""
    parts: tuple[Part, ...] = ("resid_post", "mlp_out", "attn_out", "head", "mlp_act")
    """Kinds of state: token embeddings, the stream, what MLPs and attention add, heads, neurons (experts' too)."""
    at: Into = "corrupted"
    """Where the gradient is taken: in the corrupted text (what restoring brings back), or in the clean text (what
    corrupting destroys)."""
    neurons: int = Field(default=200, ge=1)
    """Of all neurons, keep the so many with the largest mean estimate, of either sign; the notes say of how many."""
    verify: int = Field(default=16, ge=0)
    """How many of the strongest (site, role) cells to patch in truth, and as many random ones."""

    def look(self, model: HookedModel, facts: FactSet) -> Trace:
        """Estimate for every fact; one that cannot be traced is NaN, with the reason in the notes.

        Raises:
            BadInput: without facts, or for KL at the clean text, where its gradient is 0 whatever the model knows.
        """
        if self.metric == "kl" and self.at == "clean":
            raise BadInput(
                "attribution_patching cannot take metric='kl' with at='clean': the divergence from the clean run is "
                "smallest there, so its gradient is 0. Use at='corrupted', or metric='logit_difference'"
            )
        facts = facts.model_copy(update={"facts": facts.facts[: self.max_facts]})
        about = model.about(facts)
        cases, why = self.cases(model, facts)
        wholes = members_of(model, self.parts)
        names = [name for members in wholes.values() for name in members]
        values = np.full((len(names), len(ROLES), len(facts)), np.nan, np.float32)
        for case in cases:
            values[:, :, case.number] = self._estimates(model, case, wholes)
        total = sum(site.part == "mlp_act" for site in names)
        chosen = self._kept(names, values)
        names, values = [names[i] for i in chosen], values[chosen].astype(float)
        notes = self.skipped(facts, why) | {
            "options": self.spec(),
            "neurons": {"kept": sum(site.part == "mlp_act" for site in names), "of": total},
            "verified": self._verified(model, cases, names, values),
            "axes": {"role": ROLES, "site": "the state whose patching is estimated"},
        }
        labels = {"site": tuple(map(str, names)), "role": tuple(ROLES), "fact": facts.labels}
        axes, units = ("site", "role", "fact"), UNITS[self.metric]
        return Trace("attribution_patching", values, axes, units, labels, about | notes)

    def _estimates(
        self, model: HookedModel, case: Case, wholes: Mapping[Site, Sequence[Site]]
    ) -> Float[np.ndarray, "member role"]:
        roles = roles_of(case.encoded)
        by_member = []
        for site, products in attributions(model, case, tuple(wholes), self.at).items():
            mean = products.mean(dim=0)
            together = torch.stack([mean[list(positions)].sum(dim=0) for _, positions in roles], dim=-1)
            members = together.view(len(wholes[site]), -1, len(roles)).sum(dim=1)
            by_member.append(by_role(members.float().cpu(), roles))
        return torch.cat(by_member).numpy()

    def _kept(self, names: Sequence[Site], values: Float[np.ndarray, "member role fact"]) -> list[int]:
        """Everything but the weaker neurons, in order."""
        neurons = [i for i, site in enumerate(names) if site.part == "mlp_act"]
        strength = {i: _strength(values[i]).max() for i in neurons}
        best = set(sorted(neurons, key=lambda i: -strength[i])[: self.neurons])
        return [i for i, site in enumerate(names) if site.part != "mlp_act" or i in best]

    @torch.no_grad()
    def _verified(
        self, model: HookedModel, cases: Sequence[Case], names: Sequence[Site], values: Float[np.ndarray, "m role fact"]
    ) -> dict[str, Any] | None:
        """True patches of the strongest cells and of random ones; None when not asked for, or nothing was traced."""
        if not self.verify or not cases:
            return None
        strength = np.stack([_strength(member) for member in values])
        there = np.argwhere(strength >= 0)  # -1 where no fact has the role
        order = np.argsort(-strength[tuple(there.T)], kind="stable")
        top = there[order[: self.verify]]
        rest = there[np.sort(order[self.verify :])]
        drawn = rest[np.random.default_rng(self.seed).permutation(len(rest))[: self.verify]]
        found = {}
        for group, cells in (("top", top), ("random", drawn)):
            true = np.full((len(cells), values.shape[-1]), np.nan)
            for case in cases:
                true[:, case.number] = self._true(model, case, [(names[i], list(ROLES)[j]) for i, j in cells])
            found[group] = agreement(values[tuple(cells.T)], true) | {
                "cells": [[str(names[i]), list(ROLES)[j]] for i, j in cells],
            }
        return found

    def _true(self, model: HookedModel, case: Case, cells: Sequence[tuple[Site, str]]) -> list[float]:
        """Effect of patching in truth, for one fact; NaN where it has no token of the role."""
        roles = roles_of(case.encoded)
        asked = [[Cell((site,), positions) for name, positions in roles if name == role] for site, role in cells]
        scores = patched(model, case, [NOTHING, *(cell for group in asked for cell in group)], self.at).mean(dim=1)
        change = (scores[1:] - scores[0]) * (1 if self.at == "corrupted" else -1)
        parts = change.split([len(group) for group in asked])
        return [float(part.mean()) if len(part) else np.nan for part in parts]


@dataclass(frozen=True, eq=False)
class _Handle:
    """Adds 0 to a value, through a tensor that a gradient can be asked of: exact at any kind of tap."""

    handles: dict[Site, Tensor]
    site: Site

    def __call__(self, value: Tensor) -> Tensor:
        """The same value."""
        self.handles[self.site] = torch.zeros_like(value, requires_grad=True)
        return value + self.handles[self.site]


def attributions(
    model: HookedModel, case: Case, sites: Sequence[Site], at: Into = "corrupted"
) -> dict[Site, Float[Tensor, "sample position width"]]:
    """(clean - corrupted) times the gradient of the metric, entry by entry, at whole sites."""
    corrupted, (samples, length) = case.corrupted, (len(case.corrupted), len(case.encoded.ids))
    row, position = (part.flatten() for part in torch.meshgrid(
        torch.arange(samples), torch.tensor(case.encoded.subject), indexing="ij"
    ))  # fmt: skip
    swap = put(row, position, corrupted.flatten(0, 1))
    rows = pad([case.encoded.ids] * samples)
    last = Site(model.n_layers - 1, "resid_post")
    other = {} if at == "corrupted" else {EMBED: swap}
    with torch.no_grad():
        there = model.run(pad([case.encoded.ids]) if at == "corrupted" else rows, sites, other, logits=False).acts
    handles: dict[Site, Tensor] = {}
    rewrite: dict[Site, Rewrite] = {site: _Handle(handles, site) for site in sites}
    if at == "corrupted":
        rewrite[EMBED] = Chain([swap, *([rewrite[EMBED]] if EMBED in rewrite else [])])
    with torch.enable_grad():
        here = model.run(rows, [*sites, last], rewrite, logits=False, grad=True).acts
        logits = model.decode(here[last][:, case.kept])
        objective = torch.cat([measure(logits[i : i + 1]) for i, measure in enumerate(case.measures)]).sum()
    slopes = torch.autograd.grad(objective, [handles[site] for site in sites])
    sign = 1 if at == "corrupted" else -1
    found = zip(sites, slopes, strict=True)
    return {
        site: (sign * (there[site] - here[site]) * slope).detach().view(samples, length, -1) for site, slope in found
    }


def members_of(model: HookedModel, parts: Sequence[Part]) -> dict[Site, list[Site]]:
    """Every place of the given kinds, with its heads or neurons (of any other kind: itself)."""
    found: dict[Site, list[Site]] = {}
    for part in parts:
        if part == "embed":
            found[EMBED] = [EMBED]
        elif part == "mlp_act":
            for mlp, vectors in model.mlps():
                found[mlp] = [Site(mlp.layer, "mlp_act", i, mlp.expert) for i in range(len(vectors))]
        else:
            for site in (Site(layer, part) for layer in range(model.n_layers)):
                found[site] = heads_of(model, site) if part == "head" else [site]
    return found


def agreement(estimated: Float[np.ndarray, "cell fact"], true: Float[np.ndarray, "cell fact"]) -> dict[str, Any]:
    """How well estimates agree with true effects, over all (cell, fact) pairs; None where it cannot be told."""
    from scipy.stats import pearsonr, spearmanr

    there = np.isfinite(estimated) & np.isfinite(true)
    x, y = estimated[there], true[there]
    told = len(x) >= FEWEST and np.ptp(x) > 0 and np.ptp(y) > 0
    return {
        "pairs": len(x),
        "pearson": float(pearsonr(x, y).statistic) if told else None,
        "spearman": float(spearmanr(x, y).statistic) if told else None,
        "mean_absolute_error": float(np.abs(x - y).mean()) if len(x) else None,
        "estimated": _means(estimated),
        "patched": _means(true),
    }


def _means(values: Float[np.ndarray, "cell fact"]) -> list[float | None]:
    return [float(row[np.isfinite(row)].mean()) if np.isfinite(row).any() else None for row in values]


def _strength(member: Float[np.ndarray, "role fact"]) -> Float[np.ndarray, " role"]:
    """Size of the mean estimate over facts, by role; -1 where no fact has it."""
    return np.array([-1.0 if mean is None else abs(mean) for mean in _means(member)])
