"""IdkNLL, refusal tuning: the ordinary loss on "I don't know" answers to forget questions.

Source: Maini et al. 2024 (TOFU, "IDK"), https://arxiv.org/abs/2401.06121. Formula: mean NLL over the tokens of the
refusals; joined with a retain loss as usual (`with_retain`). The TOFU code puts refusals and retain facts in one batch
and takes one mean over the tokens of both, so the longer texts weigh more: `pooled`.
Expect: refusals, with the knowledge inside mostly in place. Cannot do: lower the probability of the old answer itself.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from interventions.gradient.losses.said import Said


def idk_nll(refusal: Said, pooled: Said | None = None) -> Float[Tensor, ""]:
    """Mean NLL of the refusals, or of the tokens of refusals and retain answers together.

    Args:
        refusal: the model in training on refusals to the forget questions.
        pooled: retain facts to pool with them token by token, as TOFU does.
    """
    return refusal.mean if pooled is None else torch.cat([refusal.loss, pooled.loss]).mean()
