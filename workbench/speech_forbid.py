"""Answers that may not be said: the ones stored for the questions nearest to the prompt.

Source: the retrieval and the token-level hard matching of GUARD (Deng et al. 2025, https://arxiv.org/abs/2505.13312).
Prompts are compared by the mean of a site of the model itself; the paper uses a sentence encoder of its own, and
penalises answers of similar meaning as well, which this does not.
Read it as: a token that continues a forbidden answer, given what was said since the prompt, becomes the least likely
one. Does not show: that another wording of the answer is withheld. It is not.
"""

from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.sites import Site
from workbench.tokens import Batch
from workbench.triggers import prompt_lengths

if TYPE_CHECKING:
    from workbench.model import HookedModel
    from workbench.speech import Heard

TIED = 1e-5
"""Cosines that differ by no more are the same: which of them is larger depends on who shares the batch."""

BELOW = 30.0
"""Nats by which a forbidden token lies below the least likely of all."""


def forbid(
    logits: Float[Tensor, "n vocab"],
    heard: "Heard",
    *,
    keys: Float[Tensor, "wording width"],
    owner: Int[Tensor, " wording"],
    phrases: Int[Tensor, "fact length"],
    site: str,
    nearest: int,
    completing: bool = False,
) -> Float[Tensor, "n vocab"]:
    """Where the guard acts, logits in which no answer of the nearest facts can be continued.

    Args:
        logits: of the model.
        heard: where.
        keys: mean of the site over each stored wording.
        owner: fact of each wording.
        phrases: tokens of each fact's answer, then -1.
        site: where prompts are compared.
        nearest: how many facts are taken.
        completing: forbid only the token that would complete an answer, not those that begin or continue it.
    """
    if not heard.here.any():
        return logits
    listed = retrieved(prompt_means(heard.model, heard.batch, Site.parse(site)), keys.float(), owner, nearest)
    banned = continuing(heard, listed, phrases, logits.shape[-1], completing) & heard.here[:, None]
    return torch.where(banned.to(logits.device), logits.amin(dim=-1, keepdim=True) - BELOW, logits)


@torch.no_grad()
def prompt_means(model: "HookedModel", batch: Batch, site: Site) -> Float[Tensor, "row width"]:
    """Mean of a site over each row's prompt, on the CPU."""
    stop = 0 if site.layer is None else site.layer + 1
    value = model.run(batch, read=[site], logits=False, stop=stop).acts[site].float().cpu()
    prompt = (torch.arange(value.shape[1])[None] < prompt_lengths(batch)[:, None]) & batch.mask
    return (value * prompt[..., None]).sum(dim=1) / prompt.sum(dim=1, keepdim=True)


def retrieved(
    means: Float[Tensor, "row width"],
    keys: Float[Tensor, "wording width"],
    owner: Int[Tensor, " wording"],
    nearest: int,
) -> Bool[Tensor, "row fact"]:
    """The facts whose best wording is nearest to each prompt, by cosine, and all that tie with the last of them."""
    normed = torch.nn.functional.normalize
    near = normed(means, dim=-1) @ normed(keys, dim=-1).T
    facts = int(owner.max()) + 1
    best = near.new_full((len(means), facts), -2.0).scatter_reduce(1, owner.expand_as(near), near, "amax")
    last = best.topk(min(nearest, facts), dim=1).values[:, -1:]
    return best >= last - TIED


def continuing(
    heard: "Heard",
    listed: Bool[Tensor, "row fact"],
    phrases: Int[Tensor, "fact length"],
    vocabulary: int,
    completing: bool,
) -> Bool[Tensor, "n vocab"]:
    """Tokens that begin, continue or complete a listed answer, given what was said since the prompt."""
    ids, said = heard.batch.ids, heard.position - prompt_lengths(heard.batch)[heard.row] + 1
    ends = torch.cat([phrases[:, 1:], torch.full_like(phrases[:, :1], -1)], dim=1) < 0
    banned = torch.zeros(len(heard.row), vocabulary, dtype=torch.bool)
    for done in range(phrases.shape[1]):
        follows = listed[heard.row] & (phrases[:, done] >= 0) & (said >= done)[:, None]
        for back in range(done):  # the last `done` tokens said are the answer's first
            before = ids[heard.row, (heard.position - done + 1 + back).clamp(min=0)]
            follows &= before[:, None] == phrases[:, back]
        if completing:
            follows &= ends[:, done]
        n, fact = follows.nonzero().T
        banned[n, phrases[fact, done]] = True
    return banned
