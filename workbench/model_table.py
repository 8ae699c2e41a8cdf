"""The site table of an open model: what can be read, where it is, how wide, and what this architecture cannot offer.

Read it as: one row a part (and module, where layers differ), `*` standing for the layer or expert number. Shapes are of
one reading: (row, pos, width).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from workbench.hooks import READ_ONLY
from workbench.model import HookedModel
from workbench.sites import LAYER_PARTS, NEURON_PARTS, Site


@dataclass(frozen=True)
class Row:
    """One kind of site."""

    part: str
    """As in a site's text form; `e*.mlp_act` for the neurons of single experts, `e*.mlp_pre` before the activation."""
    layers: tuple[int, ...]
    """Where it is; empty outside the blocks."""
    place: str
    """Module and side: `model.layers.*.mlp.down_proj input`."""
    width: int
    """Size of the last axis; (row, pos, width) is what a reading gives."""
    writable: bool
    """Whether it can be rewritten as well as read."""


@dataclass(frozen=True)
class Store:
    """Where value vectors are stored."""

    parameter: str
    """Name, `*` for the layer."""
    layers: tuple[int, ...]
    """Where it is."""
    shape: tuple[int, ...]
    """Of the parameter, in the checkpoint's own orientation."""
    by_row: bool
    """Whether a value vector is a row (else a column) of it."""
    through: str | None
    """Module behind it, a norm, that the sum passes before it joins the residual stream."""


def site_table(model: HookedModel) -> list[Row]:
    """Every kind of site, in reading order."""
    found: dict[Row, list[int]] = {}
    for site, place in _places(model):
        part = site.part if site.expert is None else f"e*.{site.part}"
        writable = site.part not in READ_ONLY and not model.read_only
        layers = found.setdefault(Row(part, (), place, model.width(site), writable), [])
        layers += [] if site.layer is None else [site.layer]
    return [replace(row, layers=tuple(layers)) for row, layers in found.items()]


def _places(model: HookedModel) -> Iterator[tuple[Site, str]]:
    for site, tap in model.taps.items():
        half = "" if tap.entries is None else f", entries {tap.entries[0]} to {tap.entries[1] - 1}"
        yield site, f"{_starred(tap.path)} {tap.side}put{half}"
    for layer, mixture in model.anatomy.mixtures.items():
        if mixture.fused:
            kernel = f"{_starred(mixture.experts)} kernel, {mixture.n_experts} experts"
            yield Site(layer, "mlp_act", None, 0), kernel
            if not model.why_no_gates(layer):
                yield Site(layer, "mlp_pre", None, 0), f"{kernel}, before the activation"


def stores(model: HookedModel) -> list[Store]:
    """Every kind of parameter that value vectors are stored in."""
    found: dict[Store, list[int]] = {}
    for site, store in model.down_projections():
        if site.expert in (None, 0):
            through = _starred(store.through) if store.through else None
            kind = Store(_starred(store.name), (), tuple(store.weight.shape), store.by_row, through)
            found.setdefault(kind, []).append(site.layer or 0)
    return [replace(kind, layers=tuple(layers)) for kind, layers in found.items()]


def lacking(model: HookedModel) -> dict[str, str]:
    """What this architecture, or this model, cannot offer, and why."""
    there = {site.part for site in model.taps}
    found = {part: _why_lacking(model, part) for part in LAYER_PARTS if part not in {*there, "expert"}}
    if not model.mixture_layers:
        found["expert"] = "no layer is a mixture of experts"
    elif closed := [layer for layer, mixture in model.anatomy.mixtures.items() if not mixture.fused]:
        found["e*.mlp_act"] = f"the experts of layers {spans(closed)} are not fused tensors of a kind that is known"
    elif shut := [why for layer in model.mixture_layers if (why := model.why_no_gates(layer))]:
        found["e*.mlp_pre"] = shut[0]
    return found | {what: why for what, why in model.withheld.items() if not what.startswith("L")}


def _why_lacking(model: HookedModel, part: str) -> str:
    there = {site.part for site in model.taps}
    if model.read_only:
        return model.read_only
    if failed := next((why for what, why in model.withheld.items() if what.endswith(f".{part}")), None):
        return failed
    if part == "resid_mid" and {"attn_out", "mlp_out"} <= there:
        return "attention and MLP read the same state (a parallel block), so there is nothing between them"
    if part == "router" and not model.mixture_layers:
        return "no layer is a mixture of experts"
    if part in NEURON_PARTS and model.mixture_layers and "mlp_act" not in there:
        return f"every neuron lies inside an expert: L0.e0.{part}"
    return "TransformerLens names no module for it"


def spans(layers: list[int] | tuple[int, ...]) -> str:
    """Layers in words: 0-2, 5."""
    runs: list[list[int]] = []
    for layer in sorted(set(layers)):
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _starred(path: str) -> str:
    return re.sub(r"\.\d+(?=\.|$)", ".*", path)
