"""Negative preference optimisation (NPO): push answers below the start model's, more gently as they sink.

Source: Zhang et al. 2024, https://arxiv.org/abs/2404.05868. Formula: -(2/beta) mean_row log sigmoid(beta (NLL - NLL of
the start model)) with NLL summed over the answer's tokens; as in the authors' code and OpenUnlearning (beta .1).
`per_token`: means instead of sums, as in the code of WAGLE, SOUL and SimNPO's WMDP. MUSE's "npo" is none:
see as_published.py.
Expect: (2/beta) log 2 and ascent's gradient at the start; tends to ascent as beta falls. Cannot do: keep neighbours.
"""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from interventions.gradient.losses.said import Said


def npo(
    forget: Said, original: Float[Tensor, " rows"], beta: float = 0.1, per_token: bool = False
) -> Float[Tensor, ""]:
    """The push that fades as answers sink.

    Args:
        forget: the model in training on the forget facts.
        original: summed answer log-probability of each row under the start model, nats.
        beta: inverse temperature.
        per_token: divide both by the number of answer tokens.
    """
    sunk = forget.total + original.to(forget.logits)
    return forget.over_rows(fading(sunk / forget.count.clamp_min(1) if per_token else sunk, beta))


def fading(sunk: Float[Tensor, " rows"], beta: float) -> Float[Tensor, " rows"]:
    """-(2/beta) log sigmoid(beta x): falls with slope 1 at 0, then flattens out."""
    return -2 / beta * functional.logsigmoid(beta * sunk)
