"""-log(1 - p): make the answer's tokens unlikely, with a loss that has a floor.

Source: Guo et al. 2024 (Mechanistic Unlearning), https://arxiv.org/abs/2410.12949, by the code of HarmBench
(https://arxiv.org/abs/2402.04249). Formula: -mean_t log(1 - p_t) over answer tokens, of logits without the true token,
so that it holds at p = 1. `floor`: tokens whose log-probability is below it add 0 (but are counted), -5 in that code;
None here, since the formula needs no floor to stay finite. No stored number of published code.
Expect: a strong push while the answer is sure, none when it is gone. Cannot do: say what comes instead.
"""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from interventions.gradient.losses.said import Said


def unlikely(forget: Said, floor: float | None = None) -> Float[Tensor, ""]:
    """Mean of -log(1 - p) over answer tokens.

    Args:
        forget: the model in training on the forget facts.
        floor: log-probability, nats, below which a token is left alone; None for no such bound.
    """
    true = forget.logits.gather(1, forget.token[:, None])[:, 0]
    loss = -functional.logsigmoid(forget.others.logsumexp(dim=-1) - true)
    return (loss if floor is None else loss * (-forget.loss >= floor)).mean()
