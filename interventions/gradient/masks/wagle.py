"""WAGLE: weights whose loss would change the forget answers most and the retain answers least.

Source: Jia et al. 2024, https://arxiv.org/abs/2410.17509. Formula: |(theta - g_retain / mu) * g_forget|, mu a constant
in place of the Hessian's diagonal. As in the authors' code, gradients are summed over batches of mean losses there, so
the number of batches shifts the balance of theta and g_retain; here they are means over the batches, for which mu has
one meaning: `mu / batches` gives the published scores up to a factor.
Expect: with the released mu of 1e-6 the second term rules, so scores are products of the two gradients. Cannot do:
tell the sign of what a weight does.
"""

from jaxtyping import Float
from torch import Tensor


def wagle(
    weight: Float[Tensor, "*shape"],
    forget: Float[Tensor, "*shape"],
    retain: Float[Tensor, "*shape"],
    mu: float = 1e-6,
) -> Float[Tensor, "*shape"]:
    """Score of each weight.

    Args:
        weight: its value.
        forget: gradient of the plain loss on forget facts.
        retain: the same on retain facts.
        mu: scale of the curvature.
    """
    return ((weight - retain / mu) * forget).abs()
