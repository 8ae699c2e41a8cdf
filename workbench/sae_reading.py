"""What a model's facts look like through a sparse autoencoder: which features fire, what they explain, what they do.

`read_features` counts, for every fact and feature, the tokens at which the feature is active, and measures how much of
the site's value the features explain there. `feature_effects` says how much of the answer's logit each feature is
responsible for, to first order: activation times (decoder row . gradient of the logit), summed over tokens.

Source: firing shares and the per-feature attribution of Farrell, Lau and Conmy 2024, https://arxiv.org/abs/2410.19278;
their attribution is of the difference of two answers' logits, here it is of the answer's logit less the mean logit,
as in `workbench.attribution`. Special tokens (beginning, end, padding) do not count, as in SAEBench.
Read it as: shares of tokens, logits per fact, and the share of the variance that the features explain.
Does not show: what the SAE does not explain; an edit on features leaves that part as it was.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.model import HookedModel
from workbench.sae_activations import Activations
from workbench.sae_features import FeatureSlice
from workbench.scoring import batch_of, score_batch
from workbench.sites import Site
from workbench.tokens import Batch, Encoded, pad

ROWS = 16
"""Token rows a forward pass: a site's value at every token is held, not only at the answers."""

TOKENS = 2048
"""Tokens that are encoded at once."""


@dataclass(frozen=True)
class Dictionary:
    """All features of an SAE, without SAELens."""

    whole: FeatureSlice
    """Every feature."""
    bias: Float[Tensor, " width"]
    """What the decoder adds to them."""
    metadata: Mapping[str, Any]
    """What the SAE says of itself: the model and the site it was made for."""

    @property
    def decoder(self) -> Float[Tensor, "feature width"]:
        """What each feature writes, per unit of its activation."""
        return self.whole.tensors["decoder"]

    def encode(self, value: Float[Tensor, "token width"]) -> Float[Tensor, "token feature"]:
        """Activations, in float32."""
        return self.whole.activations(value.to(self.bias.device).float())

    def decode(self, active: Float[Tensor, "token feature"]) -> Float[Tensor, "token width"]:
        """The value that the features together stand for."""
        return active @ self.decoder + self.bias


@dataclass(frozen=True)
class FeatureReading:
    """What the features did on some token rows."""

    fired: Int[Tensor, "row feature"]
    """At how many tokens of a row each feature was active."""
    tokens: Int[Tensor, " row"]
    """How many tokens of a row count."""
    summed: Float[Tensor, " feature"]
    """Each feature's activations at all tokens, added up."""
    error: float
    """Squared distance between the value and what the SAE makes of it, a token."""
    variance: float
    """Squared distance between the value and its mean over these tokens, a token."""
    active: float
    """Features active at a token, on average (L0)."""
    kept: Activations | None = None
    """Every activation, where it was asked for."""

    @property
    def explained(self) -> float:
        """Share of the variance that the SAE explains; below 0 it is worse than the mean. NaN where nothing varies."""
        return 1 - self.error / self.variance if self.variance > 0 else float("nan")

    @property
    def share(self) -> Float[Tensor, " feature"]:
        """Share of all tokens at which each feature fires."""
        return self.fired.sum(dim=0).double() / self.tokens.sum()

    @property
    def mean(self) -> Float[Tensor, " feature"]:
        """Mean activation of each feature over all tokens, those among them at which it does not fire."""
        return self.summed / self.tokens.sum()


def counted(model: HookedModel, batch: Batch) -> Bool[Tensor, "row pos"]:
    """Tokens that are neither padding nor special."""
    special = torch.tensor(sorted(model.tokenizer.all_special_ids), dtype=torch.long)
    return batch.mask & ~torch.isin(batch.ids, special)


@torch.no_grad()
def site_values(
    model: HookedModel, site: Site, rows: Sequence[Sequence[int]]
) -> Iterator[tuple[Float[Tensor, "token width"], Int[Tensor, " row"]]]:
    """Value of a site at every token that counts, some rows at a time, and how many of them each row has."""
    for start in range(0, len(rows), ROWS):
        batch = pad(rows[start : start + ROWS])
        mask = counted(model, batch)
        value = model.run(batch, read=[site], logits=False).acts[site]
        yield value[mask.to(value.device)], mask.sum(dim=1)


@torch.no_grad()
def read_features(
    model: HookedModel, site: Site, dictionary: Dictionary, rows: Sequence[Sequence[int]], keep: bool = False
) -> FeatureReading:
    """Count firing and measure reconstruction on token rows; with `keep`, every activation is kept too."""
    fired, tokens, kept = [], [], []
    first, second, error = torch.zeros_like(dictionary.bias, dtype=torch.float64), 0.0, 0.0
    summed = torch.zeros(len(dictionary.decoder), dtype=torch.float64)
    for values, lengths in site_values(model, site, rows):
        on = []
        for value in values.split(TOKENS):
            encoded = dictionary.encode(value)
            on.append((encoded > 0).cpu())
            summed += encoded.double().sum(dim=0).cpu()
            kept += [encoded.cpu().to_sparse()] if keep else []
            wide = value.to(first.device).double()
            error += float((wide - dictionary.decode(encoded)).square().sum())
            first, second = first + wide.sum(dim=0), second + float(wide.square().sum())
        firing = torch.cat(on)
        fired.append(torch.stack([part.sum(dim=0) for part in firing.split(lengths.tolist())]))
        tokens.append(lengths)
    lengths, counts = torch.cat(tokens), torch.cat(fired)
    count = int(lengths.sum())
    variance = (second - float(first.square().sum()) / count) / count if count else float("nan")
    each = (error / count, variance, int(counts.sum()) / count) if count else (float("nan"),) * 3
    return FeatureReading(counts, lengths, summed, *each, _activations(lengths, kept) if keep else None)


def _activations(lengths: Int[Tensor, " row"], parts: Sequence[Tensor]) -> Activations:
    """Sparse (token, feature) parts, one after the other."""
    whole = torch.cat(list(parts)).coalesce()
    token, feature = whole.indices().numpy()
    return Activations(lengths.numpy(), token, feature, whole.values().numpy().astype(np.float32))


@dataclass
class _Leaf:
    """Lets a site's value through and keeps it as what gradients are taken of."""

    value: Tensor | None = None

    def __call__(self, value: Tensor) -> Tensor:
        self.value = value.detach().requires_grad_(True)
        return self.value


@torch.enable_grad()
def feature_effects(
    model: HookedModel, site: Site, dictionary: Dictionary, encoded: Sequence[Encoded]
) -> Float[Tensor, " feature"]:
    """First-order effect of every feature on the answers' logit, in logits per fact.

    Raises:
        BadInput: for a site that can only be read.
    """
    total = torch.zeros(len(dictionary.decoder), dtype=torch.float64)
    for start in range(0, len(encoded), ROWS):
        batch, targets = batch_of(encoded[start : start + ROWS])
        leaf = _Leaf()
        objective = score_batch(model, batch, targets, rewrite={site: leaf}, grad=True).logit.sum()
        assert leaf.value is not None
        (gradient,) = torch.autograd.grad(objective, leaf.value)
        mask = counted(model, batch).to(gradient.device)
        for value, slope in zip(leaf.value.detach()[mask].split(TOKENS), gradient[mask].split(TOKENS), strict=True):
            along = slope.to(dictionary.bias.device).float() @ dictionary.decoder.T
            total += (dictionary.encode(value) * along).sum(dim=0).double().cpu()
    return total / len(encoded)
