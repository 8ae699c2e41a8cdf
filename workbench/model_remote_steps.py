"""What a pass elsewhere is to read and rewrite, as plain data: tensors, numbers and words, in the order of execution.

A rewrite here is a Python function, and a function of ours means nothing on a machine that does not have the
workbench. So only rewrites that are data go out: `workbench.hooks.put`, and setting a site to zero
(`torch.zeros_like`). Others are refused. Nothing of ours is imported over there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from workbench.errors import BadInput
from workbench.hooks import Put, Rewrite
from workbench.model_remote_skeleton import Order
from workbench.sites import Site

if TYPE_CHECKING:
    from workbench.model import HookedModel

Change = tuple[int | slice, Tensor | None, Tensor | None, Tensor | None]
"""Which entries of the last axis; rows and positions in them, and what is put there; without rows all become zero."""

Step = tuple[str, str, int | None, float, list[Change], bool]
"""Module path; what is met there (a key of `WITHIN`); for an expert which; the scale of the site; what is changed; and
whether the value is sent back."""

WITHIN = {"in": 0, "routing": 1, "sorting": 2, "expert": 3, "out": 4}
"""What can be met at a module, in order: what enters it; of experts the choice that enters too, their tokens sorted,
and their neurons; what leaves it."""


@dataclass
class Itinerary:
    """All stops of one pass."""

    steps: list[Step] = field(default_factory=list)
    """In the order of execution."""
    slots: list[Any] = field(default_factory=list)
    """What each value that comes back is: a whole site, or ("routing", layer), which comes back as two values."""


def itinerary(
    model: "HookedModel",
    order: Order,
    read: Sequence[Site],
    rewrite: Mapping[Site, Rewrite],
    routing: Sequence[int] = (),
) -> Itinerary:
    """What is to be done where in one pass.

    Args:
        model: says where sites are and which can be rewritten.
        order: when each module boundary is reached.
        read: sites to send back.
        rewrite: site -> `put(...)` or `torch.zeros_like`.
        routing: layers whose choice of experts is sent back.

    Raises:
        BadInput: for a site that does not exist or cannot be rewritten, or a rewrite that cannot be sent.
    """
    changes: dict[Site, list[Change]] = {}
    for site, change in rewrite.items():
        model.require_writable(site)
        changes.setdefault(site.whole, []).append(_as_data(site, change, model.span(site)))
    wanted = {site.whole for site in read}
    stops: list[tuple[Any, Step]] = []
    for site in dict.fromkeys([*changes, *(site.whole for site in read)]):
        tap = model.tap(site)
        if tap.side == "gate" or tap.entries is not None:
            raise BadInput(
                f"{site} has no module boundary of its own and is not read on a deployment: open the model here"
            )
        stops.append((site, (tap.path, tap.side, tap.expert, tap.scale, changes.get(site, []), site in wanted)))
    for layer in routing:
        stops.append((("routing", layer), (model.anatomy.mixtures[layer].experts, "routing", None, 1.0, [], True)))
    for path in dict.fromkeys(step[0] for _, step in stops if step[1] == "expert"):
        stops.append((None, (path, "sorting", None, 1.0, [], False)))
    stops.sort(key=lambda stop: _when(order, *stop[1][:2]))
    return Itinerary([step for _, step in stops], [what for what, step in stops if step[5]])


def _when(order: Order, path: str, side: str) -> tuple[int, int]:
    return order[path, "out" if side == "out" else "in"], WITHIN[side]


def _as_data(site: Site, change: Rewrite, span: tuple[int, int] | None) -> Change:
    entries = slice(None) if span is None else span[0] if span[1] - span[0] == 1 else slice(*span)
    if isinstance(change, Put):
        return entries, change.rows.cpu(), change.positions.cpu(), change.values.detach().cpu()
    if change is torch.zeros_like:
        return entries, None, None, None
    called = getattr(change, "__qualname__", type(change).__name__)
    raise BadInput(
        f"The rewrite of {site} ({called}) is a function, and only data is sent to a deployment: "
        "use put(rows, positions, values) or torch.zeros_like, or open the model here"
    )
