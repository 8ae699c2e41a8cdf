"""Many patches of one text: each is a row of a batch, and what no patch of the batch can touch is computed once.

A causal trace asks the same question hundreds of times with another state put back each time. Here the unpatched text
runs once; then the patches run many rows a pass, sorted by where they act, so that a pass starts at the first layer
(`Start`) and the first token (`Prefix`) that any of its rows changes, and unembeds only the positions asked for. What
is put at the end of a block (`mlp_out`, `resid_post`) becomes what enters the next, so that block is not run either.

Read it as: `patch_each(...)[i]` is what the model says with `patches[i]` on, the same to rounding (1e-5 in float32) as
a whole pass for it alone; `shortcuts=False` runs whole passes. Does not show: anything by itself. Source of the idea of
one row a patch: the published ROME tracing code (Meng et al. 2022), which repeats the input in a batch.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.architectures import TESTED
from workbench.errors import BadInput
from workbench.hooks import Rewrite, put
from workbench.model import HookedModel
from workbench.model_run import Prefix, Start
from workbench.sites import Site
from workbench.tokens import pad

Progress = Callable[[int, int], None]
"""Called with patches done and patches in all."""


@dataclass(frozen=True)
class Patch:
    """Values put at one site."""

    site: Site
    """Where in the model."""
    positions: tuple[int, ...]
    """Where in the text."""
    values: Float[Tensor, "position *width"]
    """What is put there; for a single neuron (position,)."""


@dataclass(frozen=True)
class Budget:
    """How many rows a pass may have."""

    memory: int = 1 << 29
    """Bytes that the values of one pass may take, by a rough count of what is alive at once."""
    rows: int = 16
    """At most so many rows: the more, the less of where they start do they share (measured: `bench.hooks`)."""

    def rows_for(self, model: HookedModel, length: int, kept: int) -> int:
        """Rows of `length` tokens that fit, at least one."""
        config = model.hf.config
        mlp = max((store.vectors.shape[-2] for _, store in model.down_projections()), default=4 * model.d_model)
        token = 8 * model.d_model + 3 * mlp + 2 * int(config.num_attention_heads) * length
        entries = length * token + 2 * kept * int(config.vocab_size)
        return max(1, min(self.rows, self.memory // (entries * model.hf.dtype.itemsize)))


@dataclass(frozen=True)
class _Base:
    """The text without the patches."""

    ids: tuple[int, ...]
    resid: list[Float[Tensor, "1 pos d_model"]]
    """What enters each layer, and last what leaves the last; empty without shortcuts."""
    mlp_out: list[Float[Tensor, "1 pos d_model"]]
    """What each layer's MLP adds; empty where it is not needed."""
    memory: Any
    """Keys and values of all its tokens; None without shortcuts."""


@torch.no_grad()
def patch_each(
    model: HookedModel,
    ids: Sequence[int],
    patches: Sequence[Sequence[Patch]],
    *,
    kept: Sequence[int],
    under: Sequence[Patch] = (),
    measure: Callable[[Tensor], Tensor] = lambda logits: logits,
    budget: Budget | None = None,
    progress: Progress | None = None,
    shortcuts: bool | None = None,
) -> Tensor:
    """What the model says with each set of patches on.

    Args:
        model: the model.
        ids: tokens of the text.
        patches: one set a result; an empty set is the text with only `under` on.
        kept: positions whose logits are wanted.
        under: patches that every row has, a corrupted subject for instance; a row's own come after.
        measure: from logits (row, kept, vocab) to what is returned of each row, so that logits need not all be held.
        budget: how many rows a pass may have.
        progress: told after every pass.
        shortcuts: start passes late; by default on architectures where every test run proves it exact, while no hook
            edit is on.

    Returns:
        (patch, ...) on the CPU, in the order of `patches`.

    Raises:
        BadInput: for positions outside the text, or sites that do not exist or can only be read.
    """
    _require_inside(ids, patches, under, kept)
    # An edit that is on may look at the text so far, which a pass that starts late would not show it.
    exact = type(model.hf).__name__ in TESTED and not (model.whole_passes or model.guards)
    quick = exact if shortcuts is None else shortcuts
    base = _run_base(model, tuple(ids), patches, under) if quick else _Base(tuple(ids), [], [], None)
    if quick:
        patches = [_later(row, base, under) for row in patches]
    rows = (budget or Budget()).rows_for(model, len(ids), len(kept))
    order = sorted(range(len(patches)), key=lambda i: _first(patches[i], model.n_layers, min(kept)))
    found: dict[int, Tensor] = {}
    for start in range(0, len(order), rows):
        chunk = order[start : start + rows]
        measured = measure(_pass(model, base, [patches[i] for i in chunk], under, kept, quick)).cpu()
        found |= dict(zip(chunk, measured, strict=True))
        if progress:
            progress(len(found), len(order))
    return torch.stack([found[i] for i in range(len(patches))]) if patches else torch.zeros(0)


def _run_base(
    model: HookedModel, ids: tuple[int, ...], patches: Sequence[Sequence[Patch]], under: Sequence[Patch]
) -> _Base:
    layers = range(model.n_layers)
    entering = [*(Site(layer, "resid_pre") for layer in layers), Site(model.n_layers - 1, "resid_post")]
    needed = any(patch.site.part == "mlp_out" for row in patches for patch in row)
    adding = [Site(layer, "mlp_out") for layer in layers] if needed else []
    read, rewrite = [*entering, *adding], _rewrites([under], 0)
    ran = model.run(pad([ids]), read=read, rewrite=rewrite, logits=False, remember=True)
    return _Base(ids, [ran.acts[site] for site in entering], [ran.acts[site] for site in adding], ran.memory)


def _later(row: Sequence[Patch], base: _Base, under: Sequence[Patch]) -> Sequence[Patch]:
    """The same change as late as it can be said: what is put at the end of a block, as what enters the next.

    Only the first layer that a row touches can be said so, for only there is everything else as in the base, and only
    if nothing else is put at the same place.
    """
    layer = min((_layer(patch.site) for patch in row), default=0)
    first = [patch for patch in row if _layer(patch.site) == layer]
    positions = [position for patch in first for position in patch.positions]
    ends = all(patch.site.part in ("mlp_out", "resid_post") for patch in first)
    if not row or not ends or len(set(positions)) < len(positions) or _is_overwritten(layer, [*row, *under]):
        return row
    return [_next(patch, base) for patch in first] + [patch for patch in row if _layer(patch.site) > layer]


def _is_overwritten(layer: int, patches: Sequence[Patch]) -> bool:
    """Whether something is put between a block and the next."""
    between = {Site(layer, "resid_post"), Site(layer + 1, "resid_pre")}
    return sum(patch.site in between for patch in patches) > 1 or Site(layer + 1, "resid_pre") in {
        patch.site for patch in patches
    }


def _next(patch: Patch, base: _Base) -> Patch:
    layer, where = _layer(patch.site), list(patch.positions)
    values = patch.values.to(base.resid[0].device)
    if patch.site.part == "mlp_out":
        values = base.resid[layer + 1][0, where] + (values - base.mlp_out[layer][0, where])
    last = layer + 1 == len(base.resid) - 1
    return Patch(Site(layer, "resid_post") if last else Site(layer + 1, "resid_pre"), patch.positions, values)


def _pass(
    model: HookedModel,
    base: _Base,
    rows: Sequence[Sequence[Patch]],
    under: Sequence[Patch],
    kept: Sequence[int],
    quick: bool,
) -> Float[Tensor, "row kept vocab"]:
    """Logits of some rows, each with its own patches on."""
    firsts = [_first(row, model.n_layers, min(kept)) for row in rows]
    layer = min(first[0] for first in firsts) if quick else 0
    token = min(min(first[1] for first in firsts), *kept) if quick else 0
    if layer == model.n_layers:  # nothing is left to run
        return model.decode(_ends(base, rows, model.n_layers)[:, list(kept)])
    every = [[*(patch for patch in under if _stage(patch.site, model.n_layers) >= layer), *row] for row in rows]
    last = Site(model.n_layers - 1, "resid_post")
    ran = model.run(
        pad([base.ids[token:]] * len(rows)),
        read=[last],
        rewrite=_rewrites(every, token),
        logits=False,
        start=Start(layer, base.resid[layer][:, token:].expand(len(rows), -1, -1)) if layer else None,
        prefix=_cut(base, token, model) if token else None,
    )
    return model.decode(ran.acts[last][:, [position - token for position in kept]])


def _ends(base: _Base, rows: Sequence[Sequence[Patch]], n_layers: int) -> Float[Tensor, "row pos d_model"]:
    """The last residual state of rows that are patched only there."""
    last = base.resid[n_layers].expand(len(rows), -1, -1)
    for rewrite in _rewrites(rows, 0).values():
        last = rewrite(last)
    return last


def _cut(base: _Base, token: int, model: HookedModel) -> Prefix:
    memory = copy.deepcopy(base.memory)
    memory.crop(token - len(base.ids))  # transformers counts what to drop, from the end
    return Prefix(torch.tensor(base.ids[:token], device=model.device), memory)


def _layer(site: Site) -> int:
    return 0 if site.layer is None else site.layer


def _stage(site: Site, n_layers: int) -> int:
    """The first block that must run after something is put at a site; `n_layers` when none must."""
    return n_layers if site == Site(n_layers - 1, "resid_post") else _layer(site)


def _first(patches: Sequence[Patch], n_layers: int, kept: int) -> tuple[int, int]:
    """First layer and first token that some patches touch; a row without patches needs no layer."""
    layers = [_stage(patch.site, n_layers) for patch in patches if patch.positions]
    tokens = [position for patch in patches for position in patch.positions]
    return min(layers, default=n_layers), min(tokens, default=kept)


def _rewrites(rows: Sequence[Sequence[Patch]], token: int) -> dict[Site, Rewrite]:
    """Row r gets its own patches, later ones over earlier ones; positions count from `token`, earlier ones are done."""
    places: dict[Site, list[tuple[int, Patch]]] = {}
    for row, patches in enumerate(rows):
        for patch in patches:
            places.setdefault(patch.site, []).append((row, patch))
    found = {site: list(_entries(given, token)) for site, given in places.items()}
    return {site: _put(entries) for site, entries in found.items() if entries}


def _entries(given: Sequence[tuple[int, Patch]], token: int) -> Iterator[tuple[tuple[int, int], Tensor]]:
    last = {}  # a place that is put twice keeps what is put last: with index_put the order would be anybody's guess
    for row, patch in given:
        for i, position in enumerate(patch.positions):
            if position >= token:
                last[row, position - token] = patch.values[i]
    yield from last.items()


def _put(entries: Sequence[tuple[tuple[int, int], Tensor]]) -> Rewrite:
    rows, positions = torch.tensor([place for place, _ in entries]).T
    return put(rows, positions, torch.stack([value for _, value in entries]))


def _require_inside(
    ids: Sequence[int], patches: Sequence[Sequence[Patch]], under: Sequence[Patch], kept: Sequence[int]
) -> None:
    every = [p for row in [*patches, under] for patch in row for p in patch.positions] + list(kept)
    outside = sorted({position for position in every if not 0 <= position < len(ids)})
    if outside or not kept:
        raise BadInput(
            f"Positions must lie within the {len(ids)} tokens of the text (0 to {len(ids) - 1}), and at least one must "
            f"be kept; got {outside or 'none to keep'}"
        )
