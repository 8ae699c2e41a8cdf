"""Which features of a sparse autoencoder to act on: those that fire on what is to be forgotten and hardly elsewhere.

Source: `Limits` is the selection of Farrell, Lau and Conmy 2024, https://arxiv.org/abs/2410.19278, as SAEBench computes
it (https://arxiv.org/abs/2503.09532): drop features whose share of the retain tokens is at or above a threshold, sort
the rest by their share of the forget tokens, take the first n; a feature that never fires on forget is never taken.
`guard_choice` is that of Muhamed et al. 2025, https://arxiv.org/abs/2504.08192: squared shares, their ratio within a
percentile of all features. Departure: there too a feature that never fires on forget is never taken.
Read it as: lists of feature numbers, best first.
Does not show: that a feature belongs to the topic and not to its single subjects.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.errors import BadInput
from workbench.fitted_sae import FittedSae
from workbench.model import HookedModel
from workbench.sae_features import FeatureSlice
from workbench.sae_reading import ROWS, TOKENS, site_values
from workbench.sae_trigger import share_so_far
from workbench.sites import Site
from workbench.tokens import pad

NOTHING = 1e-21
"""Added to the squared retain share before it divides, as published."""


@dataclass(frozen=True)
class Limits:
    """When a feature is found."""

    forget_above: float = 0.0
    """It fires on more than this share of the forget tokens."""
    retain_below: float = 0.01
    """It fires on less than this share of the retain tokens."""
    keep: int = 20
    """How many are found at most."""

    def passes(self, forget: Float[Tensor, " feature"], retain: Float[Tensor, " feature"]) -> Bool[Tensor, " feature"]:
        """Whether a feature is within both."""
        return (forget > self.forget_above) & (retain < self.retain_below)

    def found(
        self,
        forget: Float[Tensor, " feature"],
        retain: Float[Tensor, " feature"],
        score: Float[Tensor, " feature"] | None = None,
    ) -> list[int]:
        """The features that pass, highest score first; without a score, by their share of the forget tokens."""
        passing = self.passes(forget, retain).nonzero()[:, 0]
        order = (forget if score is None else score)[passing].argsort(descending=True, stable=True)
        return [int(i) for i in passing[order][: self.keep]]

    def share(self, forget: Float[Tensor, " feature"], retain: Float[Tensor, " feature"]) -> float:
        """Forget shares of the found features, added up."""
        firing = torch.where(self.passes(forget, retain), forget, torch.zeros_like(forget))
        return float(firing.topk(min(self.keep, len(firing))).values.sum())


def guard_choice(
    forget: Float[Tensor, " feature"],
    retain: Float[Tensor, " feature"],
    count: int,
    *,
    forget_percentile: float = 5.0,
    retain_percentile: float = 100.0,
    ratio_percentile: float = 95.0,
) -> list[int]:
    """Features by their squared share of the forget tokens, of those within three percentiles of all features.

    Args:
        forget: share of the forget tokens at which each feature fires.
        retain: share of the retain tokens.
        count: how many at most.
        forget_percentile: squared forget shares below it are left out.
        retain_percentile: squared retain shares above it are left out.
        ratio_percentile: of squared forget share over squared retain share; below it is left out.
    """
    wanted, unwanted, ratio = guard_scores(forget, retain)
    kept = (wanted > 0) & (wanted >= _percentile(wanted, forget_percentile))
    kept &= (unwanted <= _percentile(unwanted, retain_percentile)) & (ratio >= _percentile(ratio, ratio_percentile))
    passing = kept.nonzero()[:, 0]
    return [int(i) for i in passing[wanted[passing].argsort(descending=True, stable=True)][:count]]


def guard_scores(
    forget: Float[Tensor, " feature"], retain: Float[Tensor, " feature"]
) -> tuple[Float[Tensor, " feature"], Float[Tensor, " feature"], Float[Tensor, " feature"]]:
    """Squared shares, and the ratio of the first to the second."""
    wanted, unwanted = forget.double().square(), retain.double().square()
    return wanted, unwanted, wanted / (unwanted + NOTHING)


def _percentile(values: Float[Tensor, " feature"], percent: float) -> Float[Tensor, ""]:
    return torch.quantile(values, percent / 100)


@dataclass(frozen=True)
class Tally:
    """What features did on some tokens, added up."""

    fired: Int[Tensor, " feature"]
    """Tokens at which each was active."""
    total: Float[Tensor, " feature"]
    """Activations, added up."""
    tokens: int
    """How many tokens."""

    def __add__(self, other: "Tally") -> "Tally":
        """Both together."""
        return Tally(self.fired + other.fired, self.total + other.total, self.tokens + other.tokens)

    @property
    def share(self) -> Float[Tensor, " feature"]:
        """Share of the tokens at which each fires."""
        return self.fired.double() / max(self.tokens, 1)

    @property
    def mean(self) -> Float[Tensor, " feature"]:
        """Activation where it fires, on average; of a feature that never does, the average of those that do."""
        alive = self.fired > 0
        usual = self.total.sum() / self.fired.sum().clamp(min=1)
        return torch.where(alive, self.total / self.fired.clamp(min=1), usual)


@torch.no_grad()
def tally(
    model: HookedModel,
    used: FittedSae,
    rows: Sequence[Sequence[int]],
    progress: Callable[[int], None] | None = None,
) -> Tally:
    """Count firing on token rows, one batch at a time; special tokens do not count.

    Args:
        model: whose site is read.
        used: the SAE.
        rows: token ids.
        progress: told after every batch how many rows it had.
    """
    fired = torch.zeros(len(used.dictionary.decoder), dtype=torch.long)
    total, tokens = torch.zeros(len(fired), dtype=torch.float64), 0
    for values, lengths in site_values(model, used.site, rows):
        for value in values.split(TOKENS):
            active = used.dictionary.encode(value)
            fired += (active > 0).sum(dim=0).cpu()
            total += active.double().sum(dim=0).cpu()
        tokens += len(values)
        if progress is not None:
            progress(min(ROWS, len(lengths)))
    return Tally(fired, total, tokens)


@torch.no_grad()
def prompt_shares(
    model: HookedModel, site: Site, found: FeatureSlice, rows: Sequence[Sequence[int]], **how: Any
) -> Float[Tensor, " row"]:
    """Share of each text's tokens at which any of some features is active, as the trigger `sae_share` counts it.

    Args:
        model: whose site is read, one batch at a time.
        site: where the features read.
        found: the features.
        rows: token ids of the texts.
        how: what counts (`workbench.sae_trigger.share_so_far`).
    """
    shares = []
    encoding: dict[str, Any] = {name: tensor.to(model.device) for name, tensor in found.encoding.items()}
    encoding |= {"kind": found.kind, **found.options, **how}
    for start in range(0, len(rows), ROWS):
        batch = pad(rows[start : start + ROWS])
        value = model.run(batch, read=[site], logits=False).acts[site].to(model.device)
        wide = value.to(torch.promote_types(value.dtype, torch.float32))
        so_far = share_so_far(wide, batch.mask.to(model.device), **encoding)
        shares.append(so_far.cpu().gather(1, batch.last[:, None])[:, 0])
    return torch.cat(shares) if shares else torch.zeros(0)


def drawn_like(base: Sequence[int], fired: Int[Tensor, " feature"], seed: int) -> list[int]:
    """As many random other features, each firing about as often as the one it stands for.

    A feature that fires everywhere does harm wherever it is changed, so a control of rare features must be rare. About
    as often is within a factor of two; where no such feature is left, the nearest.
    """
    draw, counts = random.Random(seed), fired.tolist()
    free = [i for i in range(len(counts)) if i not in set(base)]
    found: list[int] = []
    for feature in base[: len(free)]:
        often = counts[feature]
        like = [i for i in free if often <= 2 * counts[i] and counts[i] <= 2 * often]
        found.append(draw.choice(like) if like else min(free, key=partial(_apart, counts, often)))
        free.remove(found[-1])
    return found


def _apart(counts: Sequence[int], often: int, feature: int) -> int:
    return abs(counts[feature] - often)


def named_features(features: Sequence[int], there: int) -> list[int]:
    """The features, when they are there and named once.

    Raises:
        BadInput: when not.
    """
    wrong = [feature for feature in features if not 0 <= feature < there]
    if wrong or len(set(features)) != len(features):
        raise BadInput(
            f"Name features from 0 to {there - 1}, each once; got {list(features)[:10]}"
            + (f" (no such feature: {wrong[0]})" if wrong else "")
        )
    return list(features)


def require_count(count: int, there: int) -> None:
    """Refuse to look for more features than there are.

    Raises:
        BadInput: saying how many there are.
    """
    if count > there:
        raise BadInput(f"The SAE has {there} features, so {count} cannot be chosen: give a count of at most {there}")
