"""Restorations: which sites are put back, at which tokens, what is held still meanwhile, and what the model then says.

A `Cell` is one restoration; `patched` runs them all, many rows a pass (`workbench.patching`). Windows of layers are
those of the published ROME code, of its paper, or symmetric. Held sites keep their corrupted values at the restored
tokens (the severed-path variant of Meng et al. 2022, https://arxiv.org/abs/2202.05262, section 2).
Read it as: rows are cells, columns the corrupted copies of the fact. Does not show: anything by itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from probes.trace_corruption import EMBED, Case
from probes.trace_metrics import LogProbability
from workbench.hooks import put
from workbench.model import HookedModel
from workbench.patching import Patch, patch_each
from workbench.sites import Site
from workbench.tokens import Encoded, pad

ROLES = {
    "first subject": "the subject's first token, when it has more than one",
    "middle subject": "the subject's tokens between first and last, mean over them",
    "last subject": "the subject's last token",
    "following": "prompt tokens after the subject but the last one, mean over them",
    "last prompt": "the prompt's last token; with answers of many tokens all positions that predict one, together",
}
"""Every role a position can have; what comes later in this table wins."""

Centring = Literal["published", "paper", "symmetric"]
"""Where an even window lies about its layer; see `window_layers`."""

Into = Literal["corrupted", "clean"]
"""Which text is run: clean states are put into the corrupted one, or corrupted states into the clean one."""


@dataclass(frozen=True)
class Cell:
    """One restoration: these sites, at these positions, together. Without positions nothing is restored."""

    sites: tuple[Site, ...]
    """What is put back to its clean value."""
    positions: tuple[int, ...]
    """Where."""
    held: tuple[Site, ...] = ()
    """What is kept at its corrupted value at the same positions."""


NOTHING = Cell((), ())
"""Nothing restored."""


def patched(model: HookedModel, case: Case, cells: Sequence[Cell], into: Into = "corrupted") -> Tensor:
    """Score of every cell under every corruption, (cell, sample).

    Args:
        model: the model.
        case: the fact, its corruptions, and what they are scored by.
        cells: restorations; many share a forward pass, each row restoring its own.
        into: put clean states into the corrupted text, or (then without held sites) corrupted ones into the clean text.
    """
    wanted = sorted({site for cell in cells for site in cell.sites}, key=str)
    held = sorted({site for cell in cells for site in cell.held}, key=str)
    clean = _acts(model, case, None, wanted)
    columns = []
    for broken, measure in zip(case.corrupted, case.measures, strict=True):
        there = clean if into == "corrupted" else _acts(model, case, broken, wanted)
        still = _acts(model, case, broken, held) if held else {}
        rows = [
            [*_patches(cell.sites, cell.positions, there), *_patches(cell.held, cell.positions, still)]
            for cell in cells
        ]
        under = [Patch(EMBED, case.encoded.subject, broken)] if into == "corrupted" else []
        columns.append(patch_each(model, case.encoded.ids, rows, kept=case.kept, under=under, measure=measure))
    return torch.stack(columns, dim=1)


def _patches(sites: Sequence[Site], positions: tuple[int, ...], acts: Mapping[Site, Tensor]) -> list[Patch]:
    return [Patch(site, positions, acts[site][0, list(positions)]) for site in sites]


def _acts(
    model: HookedModel, case: Case, broken: Float[Tensor, "subject d_model"] | None, sites: Sequence[Site]
) -> dict[Site, Tensor]:
    """Values at sites in the clean text, or with a corruption on."""
    where = torch.tensor(case.encoded.subject)
    rewrite = {} if broken is None else {EMBED: put(torch.zeros_like(where), where, broken)}
    return model.run(pad([case.encoded.ids]), read=sites, rewrite=rewrite, logits=False).acts


def restored_logprobs(
    model: HookedModel, encoded: Encoded, corrupted: Float[Tensor, "sample subject d_model"], cells: Sequence[Cell]
) -> Float[Tensor, "cell sample"]:
    """Log-probability (nats) of the answer under every corruption, with each cell's sites put back to clean."""
    measure = LogProbability(torch.tensor(encoded.answer))
    return patched(model, Case(0, encoded, corrupted, (measure,) * len(corrupted)), cells)


def roles_of(encoded: Encoded) -> list[tuple[str, tuple[int, ...]]]:
    """The role of every position from the subject on, with the positions restored together (see `ROLES`)."""
    last = encoded.answer_start - 1
    start, end = encoded.subject[0], encoded.subject[-1]
    names = {start: "first subject", end: "last subject"}
    roles = [(names.get(p, "middle subject" if p < end else "following"), (p,)) for p in range(start, last)]
    return [*roles, ("last prompt", tuple(range(last, len(encoded.ids) - 1)))]


def by_role(
    values: Float[Tensor, "*more position"], roles: Sequence[tuple[str, tuple[int, ...]]]
) -> Float[Tensor, "*more role"]:
    """One number a role of `ROLES`, the mean over what has it; NaN where nothing has.

    Args:
        values: one entry along the last axis for every entry of `roles`.
        roles: of one fact, as `roles_of` gives them.
    """
    found = values.new_full((*values.shape[:-1], len(ROLES)), torch.nan)
    for i, role in enumerate(ROLES):
        columns = [j for j, (name, _) in enumerate(roles) if name == role]
        if columns:
            found[..., i] = values[..., columns].mean(dim=-1)
    return found


def window_layers(layer: int, width: int, n_layers: int, centring: Centring = "published") -> range:
    """The layers of a window, clipped at the ends of the model.

    Odd widths are centred in every way. Of an even width w, `published` is that of the code, l - w/2 to l + w/2 - 1
    (w=10: l-5 to l+4); `paper` that of the paper's text, one layer up; `symmetric` has one layer more, l - w/2 to
    l + w/2.
    """
    below = (width - 1) // 2 if centring == "paper" else width // 2
    above = width // 2 if centring in ("paper", "symmetric") else (width - 1) // 2
    return range(max(0, layer - below), min(n_layers, layer + above + 1))


def heads_of(model: HookedModel, site: Site) -> list[Site]:
    """The heads of a layer's attention.

    Args:
        model: the model.
        site: all of them, like L3.head.
    """
    start, stop = model.span(Site(site.layer, "head", 0)) or (0, 1)
    return [Site(site.layer, "head", i) for i in range(model.width(site) // (stop - start))]
