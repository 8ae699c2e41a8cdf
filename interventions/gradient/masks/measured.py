"""The masks of a model: gradients of its own loss on forget and retain facts, made into scores and masks.

Read it as: `measured("wagle", model, forget, retain, within, share=.5)` -> parameter -> which entries may move.
Cannot do: large models in little memory: one or two gradients of all that may move are held at a time, and scores in
float64 while the threshold is found.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from jaxtyping import Bool
from torch import Tensor

from interventions.gradient.masks.fisher import fisher
from interventions.gradient.masks.salun import salun
from interventions.gradient.masks.select import best
from interventions.gradient.masks.sure import sure
from interventions.gradient.masks.wagle import wagle
from workbench.concepts import Fact
from workbench.fisher import answer_squares
from workbench.mean_gradients import PASS, mean_gradients
from workbench.model import HookedModel

MaskName = Literal["none", "wagle", "salun", "sure", "fisher"]

USE_RETAIN = ("wagle", "fisher")
"""Masks that look at retain facts."""


def measured(
    name: MaskName,
    model: HookedModel,
    forget: Sequence[Fact],
    retain: Sequence[Fact],
    within: Mapping[str, Bool[Tensor, "..."]],
    *,
    share: float = 0.5,
    mu: float = 1e-6,
    size: int = PASS,
) -> dict[str, Bool[Tensor, "..."]]:
    """Masks of the entries that may move, by a score.

    Args:
        name: of the score.
        model: unchanged.
        forget: facts to forget.
        retain: facts to retain; only wagle and fisher use them.
        within: entries that may move at all, by parameter.
        share: of those, how many are chosen.
        mu: of wagle.
        size: facts a gradient.

    Raises:
        BadInput: when nothing would be chosen.
    """
    names = list(within)
    if name == "fisher":
        mine, theirs = (_fisher(model, facts, names) for facts in (forget, retain))
        return best({n: fisher(mine[n], theirs[n]) for n in names}, share, within)
    first = mean_gradients(model, forget, names, size)
    if name == "wagle":
        second = mean_gradients(model, retain, names, size)
        weights = {n: model.parameter(n).detach().to(first[n].dtype) for n in names}
        return best({n: wagle(weights[n], first[n], second[n], mu) for n in names}, share, within)
    if name == "sure":
        return best({n: sure(first[n]) for n in names}, share, within, ties=True)
    return best({n: salun(first[n]) for n in names}, share, within)


def _fisher(model: HookedModel, facts: Sequence[Fact], names: Sequence[str]) -> dict[str, Tensor]:
    sums, count = answer_squares(model, facts, names)
    return {name: total / count for name, total in sums.items()}
