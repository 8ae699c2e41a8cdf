"""Logits less those of an assistant that knows only what is to be forgotten: the first blocks, with weights of its own.

Source: Ji et al. 2024 (ULD), https://arxiv.org/abs/2406.08607. The assistant shares the embeddings, the final norm and
the unembedding; its own weights are put into the first blocks for the length of one pass, and the later blocks hand on
what they get. Where the model finds a token unlikely, nothing is subtracted (`floor`).
Read it as: logits + weight * assistant's logits. Does not show: that anything was removed; it is a second model beside
the first.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from workbench.sites import Site

if TYPE_CHECKING:
    from workbench.model import HookedModel
    from workbench.speech import Heard


def contrast(
    logits: Float[Tensor, "n vocab"], heard: "Heard", *, depth: int, weight: float, floor: float, **changed: Tensor
) -> Float[Tensor, "n vocab"]:
    """At every token the guard acts on, the logits plus `weight` times the assistant's.

    Args:
        logits: of the model.
        heard: where.
        depth: blocks that the assistant has.
        weight: negative, so that what the assistant would say becomes less likely.
        floor: the assistant has no say on tokens that the model gives less than this share of the likeliest token's
            probability, unless they are among this share of the vocabulary (both as published); 0 for a say on all.
        changed: the assistant's own weights, `NAME|values` and perhaps `NAME|index`.
    """
    model, last = heard.model, Site(heard.model.n_layers - 1, "resid_post")
    with wearing(model, changed):
        run = model.run(heard.batch, read=[last], logits=False, stop=depth, grad=torch.is_grad_enabled())
    state = run.acts[last]
    assistant = model.decode(state[heard.row.to(state.device), heard.position.to(state.device)])
    wide = logits.float()
    said = (wide + weight * heeded(wide, assistant.float(), floor)).to(logits.dtype)
    acts = heard.told[heard.row, heard.position].to(logits.device)
    return torch.where(acts[:, None], said, logits)


def heeded(
    logits: Float[Tensor, "n vocab"], assistant: Float[Tensor, "n vocab"], floor: float
) -> Float[Tensor, "n vocab"]:
    """The assistant's logits, 0 for tokens that the model finds unlikely."""
    if not floor:
        return assistant
    logprob = logits.log_softmax(dim=-1)
    always = logprob.topk(max(1, int(floor * logprob.shape[-1])), dim=-1).values
    least = torch.minimum(always[:, -1:], always[:, :1] + math.log(floor))
    return torch.where(logprob < least, 0.0, assistant)


@contextlib.contextmanager
def wearing(model: "HookedModel", changed: Mapping[str, Tensor]) -> Iterator[None]:
    """Other parameters in the place of the model's own, which are not touched and come back afterwards."""
    from workbench.changes import Change  # stands above the model, which imports this

    own: list[tuple[nn.Module, str, nn.Parameter]] = []
    try:
        for name in (key.removesuffix("|values") for key in changed if key.endswith("|values")):
            path, _, leaf = name.rpartition(".")
            module, parameter = model.hf.get_submodule(path), model.hf.get_parameter(name)
            other = parameter.detach().clone()
            Change(changed[f"{name}|values"], changed.get(f"{name}|index")).apply(other)
            own.append((module, leaf, parameter))
            module._parameters[leaf] = nn.Parameter(other, requires_grad=False)
        yield
    finally:
        for module, leaf, parameter in own:
            module._parameters[leaf] = parameter
