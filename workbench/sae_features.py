"""Chosen features of a sparse autoencoder (SAE), cut out of it, so that a hook can read and change them alone.

Source: Farrell, Lau and Conmy 2024, "Applying sparse autoencoders to unlearn knowledge in language models",
https://arxiv.org/abs/2410.19278: where a chosen feature is active it is clamped to a negative constant (`sae_clamp`;
`beside` is their control, which clamps another feature there), or scaled (`sae_scale`, factor 0 is their zero ablation,
1 - m their multiplier m), or its decoder direction is removed (`sae_project`). `sae_clamp_all` is the clamp of Muhamed
et al. 2025, https://arxiv.org/abs/2504.08192: where any chosen feature is active, all are clamped.

Only the difference is added, value + sum over features of (new - old activation) * decoder row, which is what splicing
the SAE in and keeping its error term comes to: what the SAE does not explain stays as it was.
Read it as: `found = feature_slice(sae, [3, 17])` (`workbench.saes`), then
`Operator("sae_clamp", targets, **found.given)`. SAEs often misfire on the first token: with the option `lead` the first
tokens of a row are left as they are.
Does not show: that the features mean what their label says.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

Kind = Literal["relu", "jumprelu", "gated", "topk"]
PER_FEATURE = {"encoder", "bias", "threshold", "gain", "gate_bias", "norm"}
"""Tensors whose last axis is features."""
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

    @property
    def encoding(self) -> dict[str, Any]:
        """Tensors by which an activation is computed: all but the decoder."""
        return {name: tensor for name, tensor in self.tensors.items() if name != "decoder"}

    def activations(self, value: Value) -> Float[Tensor, "*any feature"]:
        """Activation of every chosen feature, the same numbers as the SAE's own `encode`."""
        return activations(value, kind=self.kind, **(self.encoding | dict(self.options)))

    def take(self, places: Sequence[int]) -> "FeatureSlice":
        """Some of these features, by place, in that order; one may be taken twice. Tensors are copies on the CPU."""
        own = torch.arange(len(self.tensors["decoder"])) if not self.features else torch.tensor(self.features)
        at = torch.tensor(list(places), dtype=torch.long)
        there = {name: tensor.detach().cpu() for name, tensor in self.tensors.items()}
        taken = {"decoder": there["decoder"][at]}
        if self.kind == "topk":  # what is active depends on all features of the SAE
            taken["features"] = there["features"][at]
        else:
            taken |= {name: there[name][..., at] for name in PER_FEATURE & there.keys()}
        whole = {name: tensor.clone() for name, tensor in there.items() if name not in taken}
        return FeatureSlice(self.kind, {**whole, **taken}, self.options, tuple(own[at].tolist()))


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


def sae_clamp(
    value: Value,
    targets: Tensor,
    *,
    decoder: Float[Tensor, "feature width"],
    lead: int = 0,
    beside: bool = False,
    **encoding: Any,
) -> Value:
    """Where a feature is active, its activation becomes its target (one a feature, or one for all).

    Args:
        value: what the SAE reads.
        targets: new activations.
        decoder: what each feature writes.
        lead: first tokens of a row that are left as they are.
        beside: the second half of the features says where, the first half is clamped there.
        encoding: as `activations` takes it.
    """
    now = activations(value, **encoding)
    here, rows = now, decoder
    if beside:
        (now, here), rows = now.chunk(2, dim=-1), decoder.chunk(2)[0]
    return _behind(lead, value, torch.where(here > 0, targets - now, torch.zeros_like(now)) @ rows)


def sae_clamp_all(
    value: Value, targets: Tensor, *, decoder: Float[Tensor, "feature width"], lead: int = 0, **encoding: Any
) -> Value:
    """Where any of the features is active, the activations of all become their targets."""
    now = activations(value, **encoding)
    here = (now > 0).any(dim=-1, keepdim=True)
    return _behind(lead, value, torch.where(here, targets - now, torch.zeros_like(now)) @ decoder)


def sae_scale(
    value: Value, factors: Tensor, *, decoder: Float[Tensor, "feature width"], lead: int = 0, **encoding: Any
) -> Value:
    """Every activation is multiplied by its factor (one a feature, or one for all)."""
    return _behind(lead, value, ((factors - 1) * activations(value, **encoding)) @ decoder)


def sae_project(
    value: Value,
    factor: Tensor,
    *,
    decoder: Float[Tensor, "feature width"],
    centre: Float[Tensor, " width"],
    lead: int = 0,
) -> Value:
    """The components along the decoder rows, times a factor, are taken away at every token, active or not.

    As published: the components are those of value - centre (the decoder's bias), found one feature after the other on
    a copy from which each is removed whole, so for rows that are not orthogonal the order matters.
    """
    copy, change = value - centre, torch.zeros_like(value)
    for row in torch.nn.functional.normalize(decoder, dim=-1):
        part = (copy @ row)[..., None] * row
        copy, change = copy - part, change - factor * part
    return _behind(lead, value, change)


def _behind(lead: int, value: Value, change: Value) -> Value:
    """The value plus the change, but for the first `lead` tokens of a row."""
    if not lead:
        return value + change
    return torch.cat([value[..., :lead, :], (value + change)[..., lead:, :]], dim=-2)
