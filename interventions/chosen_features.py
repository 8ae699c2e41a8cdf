"""Chosen features of sparse autoencoders (SAEs) as a loss reads them: before their activation function, with a graph.

Read it as: `firing(model, sae, facts)` counts what every feature does, `Chosen(sae, features)` is what is trained on.
Does not show: how well an SAE describes the model (the probe `sae_features` measures that).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interventions.suppression_loss import Firing
from workbench.concepts import Fact
from workbench.fitted_sae import FittedSae
from workbench.model import HookedModel
from workbench.sae_reading import TOKENS, site_values


@torch.no_grad()
def firing(model: HookedModel, sae: FittedSae, facts: Sequence[Fact]) -> Firing:
    """What every feature of an SAE does at the tokens of facts, without special tokens."""
    count = torch.zeros(len(sae.dictionary.decoder), dtype=torch.float64)
    total, tokens = count.clone(), 0
    for values, _ in site_values(model, sae.site, [encoded.ids for encoded in model.encode(facts)]):
        for value in values.split(TOKENS):
            active = sae.dictionary.encode(value).double().cpu()
            count, total, tokens = count + (active > 0).sum(dim=0), total + active.sum(dim=0), tokens + len(active)
    return Firing(count, total, tokens)


@dataclass(frozen=True, eq=False)
class Chosen:
    """Some features of an SAE, as a loss reads them."""

    sae: FittedSae
    """The SAE."""
    features: tuple[int, ...]
    """Their numbers."""

    @cached_property
    def _linear(self) -> tuple[Float[Tensor, "width feature"], Float[Tensor, " feature"], Float[Tensor, " width"]]:
        """Matrix, bias, and what is subtracted from the value first, of all pre-activations."""
        tensors = self.sae.dictionary.whole.tensors
        encoder, bias = tensors["encoder"], tensors["bias"]
        if "gain" in tensors:
            encoder = encoder * tensors["gain"]
        if "norm" in tensors:
            encoder, bias = encoder * tensors["norm"], bias * tensors["norm"]
        return encoder, bias, tensors.get("shift", torch.zeros_like(encoder[:, 0]))

    def before(self, value: Float[Tensor, "token width"]) -> Float[Tensor, "token feature"]:
        """Pre-activations of the chosen features (of a gated SAE, the magnitude's)."""
        encoder, bias, shift = self._linear
        chosen = list(self.features)
        return (value.to(bias.device).float() - shift) @ encoder[:, chosen] + bias[chosen]

    def level(self, value: Float[Tensor, "token width"]) -> Float[Tensor, " token"]:
        """Mean pre-activation of all features."""
        encoder, bias, shift = self._linear
        return (value.to(bias.device).float() - shift) @ encoder.mean(dim=1) + bias.mean()

    @torch.no_grad()
    def on(self, value: Float[Tensor, "token width"]) -> Bool[Tensor, "token feature"]:
        """Where they are active."""
        return self.sae.dictionary.encode(value.detach())[:, list(self.features)] > 0

    @property
    def floor(self) -> Float[Tensor, " feature"]:
        """What a pre-activation must exceed: the threshold of a JumpReLU, else 0."""
        tensors = self.sae.dictionary.whole.tensors
        chosen = list(self.features)
        return tensors["threshold"][chosen] if "threshold" in tensors else torch.zeros_like(tensors["bias"][chosen])
