"""`Writer`: the weights by which attention or an MLP adds to the residual stream, so that a map can be folded in.

What a part writes is the sum of W y + b over its output matrices (one for attention and a dense MLP, one an expert in a
mixture), so a linear map P of what is written is P W and P b in the weights, exactly, for every input.

Read it as: `folded(writer.rows, eraser)` are the rows of P W. Holds where nothing but a number a token stands between
the matrix and the stream. Where a norm does (Gemma 2 and 3, OLMo 2) what is added is no linear map of the weights.
Does not show: what else is in the stream: the skip connection carries the embeddings and all earlier writes past.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.erasure import Eraser
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.parameters import module_path
from workbench.scoring import chunks
from workbench.sites import Site
from workbench.tokens import Encoded
from workbench.value_vectors import value_vectors_of

MOST = 4096
"""Most tokens whose states say what is to move little."""

_PART = {"attn_out": "attn_out", "head": "attn_out", "mlp_out": "mlp_out", "mlp_act": "mlp_out", "expert": "mlp_out"}


@dataclass(frozen=True)
class Writer:
    """One output matrix of a part, or that of all its experts."""

    name: str
    """Parameter name."""
    rows: Float[Tensor, "*batch n d_model"]
    """A view of the live parameter with one vector that is written a row."""
    bias: str | None
    """Parameter name of the bias, (d_model,) or (expert, d_model)."""


def parts_of(model: HookedModel, where: Sequence[Site] | None) -> list[Site]:
    """The writing parts that some sites lie in, in the order in which they are computed; None for all.

    A neuron or an expert stands for its MLP, a head for its attention, a block's stream for both.

    Raises:
        BadInput: for no site, one outside the blocks, or a router.
    """
    if where is None:
        where = [Site(layer, "resid_post") for layer in range(model.n_layers)]
    found: set[Site] = set()
    for site in where:
        if site.layer is None or site.part == "router":
            raise BadInput(f"{site} is nothing that a block writes; name L3.mlp_out, L3.attn_out or L3.resid_post")
        kinds = [_PART[site.part]] if site.part in _PART else ["attn_out", "mlp_out"]
        found |= {Site(site.layer, kind) for kind in kinds}
    if not found:
        raise BadInput("There is no site to act at: name L3.mlp_out, L3.attn_out or L3.resid_post")
    for part in found:
        model.tap(part)
    return sorted(found, key=_depth)


def _depth(part: Site) -> tuple[int, str]:
    return (-1 if part.layer is None else part.layer, part.part)  # attn_out comes before mlp_out


def writers_of(model: HookedModel, part: Site) -> list[Writer]:
    """The output matrices of a part.

    Raises:
        BadInput: when a norm stands behind the part, or its weights are stored in a way that is not understood.
    """
    assert part.layer is not None
    if model.tap(part).path != _whole_module(model, part):
        raise BadInput(
            f"A norm stands behind {part} of {model.name} ({type(model.hf).__name__}), so no map of what it adds can "
            "be folded into weights; choose a method that trains"
        )
    if part.part == "attn_out":
        path = model.tap(Site(part.layer, "head")).path
        module = model.hf.get_submodule(path)
        weight = model.parameter(f"{path}.weight")
        rows = weight if type(module).__name__ == "Conv1D" else weight.mT
        return [Writer(f"{path}.weight", rows, f"{path}.bias" if getattr(module, "bias", None) is not None else None)]
    model.value_vectors(part.layer)  # says what is wrong where they did not pass the opening's check
    return [Writer(v.name, v.vectors, v.bias) for v in value_vectors_of(model.hf, model.anatomy, part.layer)]


def _whole_module(model: HookedModel, part: Site) -> str:
    assert part.layer is not None
    return model.anatomy.mlps[part.layer] if part.part == "mlp_out" else module_path(model, part)


def fold(model: HookedModel, part: Site, eraser: Eraser) -> None:
    """Change a part's weights, in place, so that it writes what an eraser leaves of what it wrote.

    The eraser's mean, if it has one, is kept by the bias: only for a part with a single matrix that has one.
    """
    scale = model.tap(part).scale  # what a block multiplies the part's output by before it adds it
    fitted = replace(eraser, mean=eraser.mean / scale)
    linear = replace(eraser, mean=torch.zeros_like(eraser.mean))
    with torch.no_grad():
        for writer in writers_of(model, part):
            writer.rows.copy_(linear(writer.rows))
            if writer.bias is not None:
                bias = model.parameter(writer.bias)
                bias.copy_(fitted(bias.reshape(-1, bias.shape[-1])).reshape(bias.shape))


def keeps_mean(model: HookedModel, part: Site) -> bool:
    """Whether a part has one bias that every token gets in full, which can keep the mean of what it writes."""
    writers = writers_of(model, part)
    return len(writers) == 1 and writers[0].bias is not None and model.parameter(writers[0].bias).ndim == 1


@torch.no_grad()
def written(
    model: HookedModel, part: Site, encoded: Sequence[Encoded], position: Literal["subject", "end"]
) -> Float[Tensor, "n d_model"]:
    """What a part adds to the stream at one token of each fact: the subject's last, or the prompt's last."""
    at = torch.tensor([e.subject[-1] if position == "subject" else e.answer_start - 1 for e in encoded])
    acts = [model.run(batch, read=[part], logits=False).acts[part] for batch, _ in chunks(encoded)]
    starts = torch.tensor([len(a) for a in acts]).cumsum(0)
    rows = [a[torch.arange(len(a)), at[end - len(a) : end]] for a, end in zip(acts, starts.tolist(), strict=True)]
    return torch.cat(rows).double()


@torch.no_grad()
def everywhere(model: HookedModel, part: Site, encoded: Sequence[Encoded]) -> Float[Tensor, "n d_model"]:
    """What a part adds to the stream at every token of some facts, at most `MOST` of them, spread evenly."""
    rows = [model.run(batch, read=[part], logits=False).acts[part][batch.mask] for batch, _ in chunks(encoded)]
    every = torch.cat(rows)
    return every[:: -(-len(every) // MOST)].double()
