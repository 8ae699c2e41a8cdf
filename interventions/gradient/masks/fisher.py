"""Fisher ratio: weights that matter to forget facts and not to retain facts.

Source: the importance that starts LoKU's adapter (FILA), Cha et al. 2024, https://arxiv.org/abs/2408.06621, weight by
weight: mean g_forget^2 / (1e-5 + mean g_retain^2), means over facts. As a mask: own.
Expect: near what SSD dampens. Cannot do: compare weights where both are far below 1e-5.
"""

from jaxtyping import Float
from torch import Tensor

FLOOR = 1e-5
"""Added to the retain importance, as in LoKU's code."""


def fisher(
    forget: Float[Tensor, "*shape"], retain: Float[Tensor, "*shape"], floor: float = FLOOR
) -> Float[Tensor, "*shape"]:
    """Score of each weight.

    Args:
        forget: mean squared gradient over forget facts.
        retain: the same over retain facts.
        floor: added to the latter.
    """
    return forget / (floor + retain)
