"""Mean and spread of every neuron over many tokens, taken batch by batch.

Read it as: `moments_of(model, sites, texts)[site].mean` is the mean over the tokens that reached the site. Only one
batch is ever in memory, and of it only one site at a time: what a site gives is counted while the pass runs.
Does not show: how the values are spread beyond mean and standard deviation; that they are normal is a model of them.

Source: the update for sets of values, Chan, Golub and LeVeque 1979, in float64.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.model import HookedModel
from workbench.sites import Site
from workbench.tokens import Batch


class Moments:
    """Running mean and sum of squared deviations of vectors, float64 on the CPU.

    Args:
        width: entries of a vector.
    """

    def __init__(self, width: int) -> None:
        self.count = 0
        self.mean = torch.zeros(width, dtype=torch.float64)
        self.squares = torch.zeros(width, dtype=torch.float64)

    def add(self, values: Float[Tensor, "n width"]) -> None:
        """Count some more vectors."""
        new = len(values)
        if not new:
            return
        wide = values.detach().to("cpu", torch.float64)
        mean = wide.mean(dim=0)
        apart, total = mean - self.mean, self.count + new
        self.squares += (wide - mean).square().sum(dim=0) + apart.square() * (self.count * new / total)
        self.mean += apart * (new / total)
        self.count = total

    @property
    def variance(self) -> Float[Tensor, " width"]:
        """Sample variance (n - 1); not a number where fewer than two vectors were counted."""
        return self.squares / (self.count - 1) if self.count > 1 else torch.full_like(self.squares, torch.nan)

    @property
    def std(self) -> Float[Tensor, " width"]:
        """Sample standard deviation (n - 1)."""
        return self.variance.sqrt()


@dataclass(frozen=True, eq=False)
class _Counting:
    """A rewrite that changes nothing and counts the tokens it is shown."""

    moments: Moments
    tokens: Bool[Tensor, "row pos"]
    routed: bool

    def __call__(self, value: Float[Tensor, "row pos width"]) -> Float[Tensor, "row pos width"]:
        here = self.tokens.to(value.device)
        if self.routed:  # an expert shows zeros, exactly, for tokens that it was not sent
            here = here & (value != 0).any(dim=-1)
        self.moments.add(value[here])
        return value


@torch.no_grad()
def moments_of(
    model: HookedModel,
    sites: Sequence[Site],
    batches: Iterable[tuple[Batch, Bool[Tensor, "row pos"]]],
    after: Callable[[], None] | None = None,
) -> dict[Site, Moments]:
    """Moments of every entry of some sites; inside an expert over the tokens sent to it.

    Args:
        model: the model.
        sites: whole sites that can be rewritten.
        batches: token rows, and which of their tokens count; taken one at a time.
        after: called after each batch.

    Raises:
        BadInput: for a site that the model does not have.
    """
    found = {site: Moments(model.width(site)) for site in sites}
    for batch, tokens in batches:
        counting = {site: _Counting(found[site], tokens, site.expert is not None) for site in sites}
        model.run(batch, rewrite=counting, logits=False)
        if after is not None:
            after()
    return found
