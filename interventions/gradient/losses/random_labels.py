"""Random labels: the ordinary loss on forget questions with wrong tokens as answers.

Source: Golatkar et al. 2019, https://arxiv.org/abs/1911.04933; with a mask Fan et al. 2023 (SalUn),
https://arxiv.org/abs/2310.12508. Formula: mean NLL of a token drawn once per answer token, evenly from all others.
Answers of the same kind instead of any token (the usual choice for facts) are ordinary labels: `Said.of` with those.
Expect: nonsense in place of answers. Cannot do: leave the form of an answer intact.
"""

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interventions.gradient.losses.said import Said


def other_tokens(token: Int[Tensor, " n"], vocab: int, generator: torch.Generator) -> Int[Tensor, " n"]:
    """A random token for each token, never the same one; the draw is made on the CPU, so it is the same everywhere."""
    drawn = torch.randint(vocab - 1, token.shape, generator=generator).to(token)
    return drawn + (drawn >= token)


def random_label_nll(forget: Said, drawn: Int[Tensor, " n"]) -> Float[Tensor, ""]:
    """Mean NLL of the drawn tokens where the answers' stand."""
    return replace(forget, token=drawn).mean
