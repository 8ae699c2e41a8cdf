"""From scores of weights to the masks of the best share of them, by one threshold over all tensors.

Read it as: `best(scores, share, within)`: True for the floor(share * n) entries of highest score among the n entries
that may move at all. Ties are broken by the order of tensors and entries, so the same scores give the same masks.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.errors import BadInput


def best(
    scores: Mapping[str, Float[Tensor, "..."]],
    share: float,
    within: Mapping[str, Bool[Tensor, "..."]] | None = None,
    ties: bool = False,
) -> dict[str, Bool[Tensor, "..."]]:
    """Masks of the entries of highest score; tensors of which none is chosen are left out.

    Args:
        scores: by parameter.
        share: of the entries that may move, 0 to 1.
        within: which entries may move, by parameter; None for all.
        ties: choose all entries that are equal to the last one chosen, so that what shares a score stays together.

    Raises:
        BadInput: when nothing would be chosen, or the scores tell nothing apart.
    """
    allowed = {name: None if within is None else within[name] for name in scores}
    flat = torch.cat([_inside(score, allowed[name]).double() for name, score in scores.items()])
    count = int(share * len(flat))
    if count < 1:
        raise BadInput(
            f"The mask selects nothing: a share of {share:g} of {len(flat)} weights is none; raise mask_share"
        )
    if not flat.isfinite().all():
        raise BadInput("The mask's scores hold numbers that are not finite: open the model with dtype float32")
    if flat.max() <= 0:
        raise BadInput(
            "The mask selects nothing: every weight that may move has score 0, so the facts have no gradient there. "
            "Choose other places, or mask=none"
        )
    chosen = _highest(flat, count, ties)
    return _spread(scores, allowed, chosen)


def _inside(score: Tensor, allowed: Tensor | None) -> Float[Tensor, " n"]:
    return score.flatten() if allowed is None else score[allowed]


def _highest(flat: Float[Tensor, " n"], count: int, ties: bool) -> Bool[Tensor, " n"]:
    """The `count` highest; of equal ones the first, or all unless they are 0."""
    edge = flat.kthvalue(len(flat) - count + 1).values
    chosen = flat > edge
    if ties:
        return (flat >= edge) & (flat > 0)
    chosen[(flat == edge).nonzero()[: count - int(chosen.sum()), 0]] = True
    return chosen


def _spread(
    scores: Mapping[str, Tensor], allowed: Mapping[str, Tensor | None], chosen: Bool[Tensor, " n"]
) -> dict[str, Bool[Tensor, "..."]]:
    """Back into the shapes of the tensors."""
    found, start = {}, 0
    for name, score in scores.items():
        where = allowed[name]
        mask = torch.zeros(score.shape, dtype=torch.bool, device=score.device)
        size = score.numel() if where is None else int(where.sum())
        part = chosen[start : start + size]
        if where is None:
            mask = part.view(score.shape)
        else:
            mask[where] = part
        start += size
        if part.any():
            found[name] = mask
    return found
