"""How tokens are shared out among the experts of each layer, as a run of `probes.expert_shift` noted it.

Read it as: `loads_of` gives the share of tokens every expert is chosen for, before and after; `entropies` says how even
that is, 1 when every expert gets as many, 0 when one set of experts gets all.
Does not show: what an expert does with what it gets, nor single facts; a run keeps the shares over all tokens.
"""

import math
from collections.abc import Mapping

import numpy as np

from workbench.trace import Trace

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


def entropies(load: Trace, layers: tuple[str, ...]) -> Trace:
    """Evenness of the load by layer: entropy of the shares over that of an even load.

    Args:
        load: from `loads_of`.
        layers: names of the layers, in its order.
    """
    shares = load.values.reshape(len(layers), -1)
    total = shares.sum(axis=1, keepdims=True)
    part = np.divide(shares, total, out=np.zeros_like(shares), where=total > 0)
    logs = np.log(part, out=np.zeros_like(part), where=part > 0)
    even = math.log(shares.shape[1]) if shares.shape[1] > 1 else 1.0
    return Trace("Evenness of the load", -(part * logs).sum(axis=1) / even, ("layer",), "1 is even", {"layer": layers})
