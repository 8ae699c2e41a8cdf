"""Chosen features of a sparse autoencoder (SAE), cut out of it, so that a hook can read and change them alone.

Source: Farrell, Lau and Conmy 2024, "Applying sparse autoencoders to unlearn knowledge in language models",
https://arxiv.org/abs/2410.19278: where a chosen feature is active it is clamped to a negative constant (`sae_clamp`),
or scaled (`sae_scale`, factor 0 is their zero ablation, 1 - m their multiplier m).

Only the difference is added, value + sum over features of (new - old activation) * decoder row, which is what splicing
the SAE in and keeping its error term comes to: what the SAE does not explain stays as it was.
Read it as: `found = feature_slice(sae, [3, 17])` (`workbench.saes`), then
`Operator("sae_clamp", targets, **found.given)`.
Does not show: that the features mean what their label says; and SAEs often misfire on the first token, which is
clamped like any other.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

Kind = Literal["relu", "jumprelu", "gated", "topk"]
Value = Float[Tensor, "*any width"]


@dataclass(frozen=True)
class FeatureSlice:
    """What it takes to compute some features of an SAE and to write their change back."""

    kind: Kind
    """How an activation follows from the pre-activation."""
    tensors: Mapping[str, Tensor]
    """As `activations` takes them, and `decoder` (feature, width)."""
    options: Mapping[str, int] = field(default_factory=dict)
    """`k` for a TopK autoencoder."""
    features: tuple[int, ...] = ()
    """Numbers of the features in the SAE, in order."""

    @property
    def given(self) -> dict[str, Any]:
        """Keyword arguments of an `Operator` on these features."""
        return {"tensors": dict(self.tensors), "options": {"kind": self.kind, **self.options}}

    def activations(self, value: Value) -> Float[Tensor, "*any feature"]:
        """Activation of every chosen feature, the same numbers as the SAE's own `encode`."""
        needed: dict[str, Any] = {name: tensor for name, tensor in self.tensors.items() if name != "decoder"}
        return activations(value, kind=self.kind, **(needed | dict(self.options)))


def activations(
    value: Value,
    *,
    kind: Kind,
    encoder: Float[Tensor, "width encoded"],
    bias: Float[Tensor, " encoded"],
    shift: Float[Tensor, " width"] | None = None,
    threshold: Float[Tensor, " encoded"] | None = None,
    gain: Float[Tensor, " encoded"] | None = None,
    gate_bias: Float[Tensor, " encoded"] | None = None,
    norm: Float[Tensor, " encoded"] | None = None,
    features: Tensor | None = None,
    k: int = 0,
) -> Float[Tensor, "*any feature"]:
    """Activations of features.

    Args:
        value: what the SAE reads.
        kind: `relu`, `jumprelu`, `gated` or `topk`.
        encoder: one column a feature; for `topk` all features of the SAE.
        bias: of the pre-activation; for `gated` of the magnitude.
        shift: subtracted from the value first (the decoder's bias, where the SAE does that).
        threshold: for `jumprelu`: at or below it an activation is 0.
        gain: for `gated`: the magnitude's columns are the gate's times this.
        gate_bias: for `gated`: of the gate, which must be positive.
        norm: for `topk`: what every pre-activation is multiplied by first (norms of decoder rows).
        features: for `topk`: which of the encoded features are wanted.
        k: for `topk`: how many, of all, are not 0.
    """
    before = (value if shift is None else value - shift) @ encoder
    if kind == "relu":
        return (before + bias).relu()
    if kind == "jumprelu" and threshold is not None:
        return (before + bias).relu() * (before + bias > threshold)
    if kind == "gated" and gain is not None and gate_bias is not None:
        return (before * gain + bias).relu() * (before + gate_bias > 0)
    if kind == "topk" and features is not None:
        return _largest((before + bias) * (1 if norm is None else norm), k)[..., features]
    raise ValueError(f"an SAE of kind {kind!r} needs other tensors than these")


def _largest(before: Tensor, k: int) -> Tensor:
    """The k largest, negative ones as 0; 0 elsewhere."""
    largest = before.topk(k, dim=-1)
    return torch.zeros_like(before).scatter(-1, largest.indices, largest.values.relu())


def sae_clamp(value: Value, targets: Tensor, *, decoder: Float[Tensor, "feature width"], **encoding: Any) -> Value:
    """Where a feature is active, its activation becomes its target (one a feature, or one for all)."""
    now = activations(value, **encoding)
    return value + torch.where(now > 0, targets - now, torch.zeros_like(now)) @ decoder


def sae_scale(value: Value, factors: Tensor, *, decoder: Float[Tensor, "feature width"], **encoding: Any) -> Value:
    """Every activation is multiplied by its factor (one a feature, or one for all)."""
    return value + ((factors - 1) * activations(value, **encoding)) @ decoder
