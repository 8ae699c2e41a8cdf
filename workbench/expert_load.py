"""How tokens are shared out among the experts of each layer: from an audit fact by fact, or as `expert_shift` noted it.

Read it as: `loads_of` and `load_by_fact` give the share of tokens every expert is chosen for; `entropies` says how even
that is, 1 when every expert gets as many, 0 when one set of experts gets all.
Does not show: what an expert does with what it gets. A run of `expert_shift` keeps the shares over all tokens, of which
no noise is known; an audit keeps them for each fact.
"""

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from workbench.errors import BadInput
from workbench.sites import parse_sites
from workbench.trace import Trace
from workbench.trace_cuts import kept

NO_EXPERTS = "the model is no mixture of experts"
"""Why a dense model has no reading of experts."""

SIDES = {"before": "donor", "after": "model"}
"""Side of the comparison -> its name in the notes."""


def loads_of(shift: Trace) -> dict[str, Trace]:
    """`before`, `after` -> share of tokens by expert (axis site); empty for a run that did not note them."""
    noted = shift.notes.get("sent")
    if not isinstance(noted, Mapping) or not all(side in noted for side in SIDES.values()):
        return {}
    return {name: _load(shift, np.asarray(noted[side], dtype=float), name) for name, side in SIDES.items()}


def _load(shift: Trace, shares: np.ndarray, name: str) -> Trace:
    sites = tuple(f"{layer}.expert[{i}]" for layer in shift.labels["layer"] for i in range(shares.shape[1]))
    return Trace(f"Tokens sent {name}", shares.reshape(-1), ("site",), "share of tokens", {"site": sites})


def load_by_fact(frequency: Trace) -> Trace:
    """Share of each fact's tokens that every expert is chosen for, axes (site, fact); a layer sums to K.

    Args:
        frequency: `expert_attribution` with `score="frequency"`, which shares out the choices (a layer sums to 1).

    Raises:
        BadInput: when the notes do not say how many experts a token gets.
    """
    top_k = frequency.notes.get("experts_per_token")
    if not isinstance(top_k, int):
        raise BadInput(f"The notes of {frequency.name!r} do not say how many experts a token gets; read it again")
    return replace(frequency, name="Share of tokens", values=frequency.values * top_k, units="share of tokens")


def entropies(load: Trace) -> Trace:
    """Evenness of the load by layer: entropy of the shares over that of an even load, (layer,) or (layer, fact).

    With facts apart, a fact's number is the cross-entropy of its own shares with those of all facts. Their mean is
    the entropy, exactly, and their spread gives its interval to first order (the delta method).

    Args:
        load: share of tokens by expert, axes (site,) or (site, fact).
    """
    sites = parse_sites(load.labels["site"])
    layers = list(dict.fromkeys(site.layer for site in sites))
    parts = [kept(load, "site", [i for i, site in enumerate(sites) if site.layer == layer]) for layer in layers]
    labels = {"layer": tuple(str(layer) for layer in layers)}
    labels |= {"fact": load.labels["fact"]} if "fact" in load.axes else {}
    values = np.stack([_evenness(np.moveaxis(part.values, part.axis("site"), 0)) for part in parts])
    return Trace("Evenness of the load", values, tuple(labels), "1 is even", labels, load.notes)


def _evenness(shares: np.ndarray) -> np.ndarray:
    """Of one layer, (expert, ...) -> (...); NaN where a fact was not read."""
    total = shares.sum(axis=0, keepdims=True)
    part = np.divide(shares, total, out=np.full(shares.shape, np.nan, float), where=total > 0)
    pooled = part if part.ndim == 1 else np.nanmean(part, axis=1)
    logs = np.log(pooled, out=np.zeros_like(pooled), where=pooled > 0)
    even = math.log(len(shares)) if len(shares) > 1 else 1.0
    return np.asarray(-np.tensordot(logs, part, axes=(0, 0)) / even)
