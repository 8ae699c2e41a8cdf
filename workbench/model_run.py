"""One forward pass of a hooked model: which hooks go on, where it may start, and what it gives back.

Everything is read and rewritten on the Hugging Face model itself. A pass may leave out what is known already: the
blocks below `Start.layer`, whose output is given, and the tokens of a `Prefix`, whose keys and values are.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from workbench.errors import BadInput
from workbench.guards import spoken
from workbench.hooks import Chain, Folded, Keep, Rewrite, Within, hooked
from workbench.model_experts import tapped
from workbench.sites import Site
from workbench.tokens import Batch

if TYPE_CHECKING:
    from workbench.model import HookedModel


@dataclass(frozen=True)
class Run:
    """What one forward pass gave."""

    logits: Float[Tensor, "row kept vocab"] | None
    """Next-token logits at the positions asked for, None when not asked for."""
    acts: dict[Site, Tensor]
    """Value of every site read: (row, pos, width), or (row, pos) for a single neuron."""
    memory: Any = None
    """Keys and values of every block, when the pass was to remember them (transformers' cache)."""


@dataclass(frozen=True)
class Start:
    """A pass that begins in the middle: the blocks below `layer` are left out."""

    layer: int
    """First block that is computed."""
    resid: Float[Tensor, "row pos d_model"]
    """What enters it."""


@dataclass(frozen=True)
class Prefix:
    """Tokens that every row begins with, and what attention remembers of them; see `HookedModel.prefix`."""

    ids: Int[Tensor, " pos"]
    """The tokens."""
    memory: Any
    """Keys and values of every block, for one row (transformers' cache)."""

    def for_rows(self, rows: int) -> Any:
        """A cache of its own for a batch: a pass adds to the cache it is given."""
        cache = copy.deepcopy(self.memory)
        cache.batch_repeat_interleave(rows)
        return cache


def run(
    model: "HookedModel",
    batch: Batch,
    read: Sequence[Site],
    rewrite: Mapping[Site, Rewrite],
    *,
    logits: bool | int | Int[Tensor, " kept"],
    grad: bool,
    start: Start | None,
    prefix: Prefix | None,
    remember: bool,
    stop: int | None = None,
) -> Run:
    """One forward pass; arguments are those of `HookedModel.run`."""
    acts: dict[Site, Tensor] = {}
    shape = (len(batch.ids), batch.ids.shape[1])
    if model.guards and (start is not None or prefix is not None):
        raise BadInput(f"{model.name} wears a guard, which must see whole rows: leave out `start` and `prefix`")
    with ExitStack() as hooks, torch.set_grad_enabled(grad):
        if stop is not None:
            hooks.enter_context(handing_on(model, range(stop, model.n_layers)))
        if start is not None:
            hooks.enter_context(_from(model, start))
        inside: dict[int, dict[str, dict[int, Rewrite]]] = {}
        for site, change in _changes(model, batch, read, rewrite, acts, shape).items():
            tap = model.tap(site)
            if tap.expert is None:
                hooks.enter_context(hooked(model.hf, tap, change))
            elif site.layer is not None:
                inside.setdefault(site.layer, {"expert": {}, "gate": {}})[tap.side][tap.expert] = change
        for layer, changes in inside.items():
            experts = model.hf.get_submodule(model.anatomy.mixtures[layer].experts)
            hooks.enter_context(tapped(experts, shape, changes["expert"], changes["gate"]))
        out = model.hf(**_inputs(model, batch, prefix, remember), **_kept(logits))
    chosen = {site: _slice(model, site, acts[site.whole]) for site in read}
    with torch.set_grad_enabled(grad):  # a speech may run the model once more
        said = None if logits is False else _said(model, batch, out.logits, logits)
    return Run(said, chosen, out.past_key_values if remember else None)


def _said(model: "HookedModel", batch: Batch, given: Tensor, kept: bool | int | Tensor) -> Tensor:
    """The logits that were asked for, as the guards that are on let them be said."""
    if not any(guard.speech for guard in model.guards):
        return given
    rows, length = batch.ids.shape
    last = torch.arange(length)
    positions = last if kept is True else kept.cpu() if isinstance(kept, Tensor) else last[-int(kept) :]
    row, position = torch.arange(rows).repeat_interleave(len(positions)), positions.repeat(rows)
    return spoken(model, batch, given.flatten(0, 1), row, position).view_as(given)


def _kept(logits: bool | int | Tensor) -> dict[str, Any]:
    if logits is True:
        return {}
    return {"logits_to_keep": 1 if logits is False else logits}


def _inputs(model: "HookedModel", batch: Batch, prefix: Prefix | None, remember: bool) -> dict[str, Any]:
    """Ids, mask, position ids, and the memory of the prefix."""
    given = batch.inputs(model.device)
    if prefix is None:
        # A cache without a config keeps every token, also in blocks with a sliding window, so it can be cut anywhere.
        return given | ({"use_cache": True, "past_key_values": DynamicCache()} if remember else {"use_cache": False})
    rows, before = len(batch.ids), len(prefix.ids)
    seen = torch.ones(rows, before, dtype=torch.long, device=model.device)
    given["attention_mask"] = torch.cat([seen, given["attention_mask"]], dim=1)
    given["position_ids"] = given["position_ids"] + before
    return given | {"use_cache": True, "past_key_values": prefix.for_rows(rows)}


def _changes(
    model: "HookedModel",
    batch: Batch,
    read: Sequence[Site],
    rewrite: Mapping[Site, Rewrite],
    acts: dict[Site, Tensor],
    shape: tuple[int, int],
) -> dict[Site, Rewrite]:
    """Whole site -> what happens there, in order: edits that are on, rewrites, then the reading."""
    changes: dict[Site, list[Rewrite]] = {}
    worn = [pair for guard in model.guards for pair in guard.acting(model, batch)]
    for site, change in [*worn, *rewrite.items()]:
        model.require_writable(site)
        span = model.span(site)
        changes.setdefault(site.whole, []).append(change if span is None else Within(*span, change))
    for whole in dict.fromkeys(site.whole for site in read):
        changes.setdefault(whole, []).append(Keep(acts, whole))
    return {site: Folded(shape, Chain(functions)) for site, functions in changes.items()}


def _slice(model: "HookedModel", site: Site, value: Tensor) -> Tensor:
    span = model.span(site)
    if span is None:
        return value
    return value[..., span[0]] if span[1] - span[0] == 1 else value[..., span[0] : span[1]]


@contextmanager
def _from(model: "HookedModel", start: Start) -> Iterator[None]:
    """Blocks below the start hand on what they get; what enters the first computed one is put there."""
    first = model.tap(Site(start.layer, "resid_pre"))
    there = _Given(start.resid.to(next(model.hf.get_submodule(first.path).parameters()).device))
    with hooked(model.hf, first, there), handing_on(model, range(start.layer)):
        yield


@contextmanager
def handing_on(model: "HookedModel", layers: Iterable[int]) -> Iterator[None]:
    """Some blocks compute nothing: they hand on what they get."""
    blocks = [model.hf.get_submodule(model.tap(Site(i, "resid_post")).path) for i in layers]
    own = [block.__dict__.get("forward") for block in blocks]  # libraries may have put one there
    for block in blocks:
        block.forward = _hand_on
    try:
        yield
    finally:
        for block, forward in zip(blocks, own, strict=True):
            del block.forward
            if forward is not None:
                block.forward = forward


@dataclass(frozen=True, eq=False)
class _Given:
    """Whatever comes, this goes on."""

    value: Tensor

    def __call__(self, _: Tensor) -> Tensor:
        return self.value


def _hand_on(hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
    return hidden_states
