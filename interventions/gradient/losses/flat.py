"""FLAT: move probability from the forget answer to a template answer, weighed by an f-divergence.

Source: Wang et al. 2024, https://arxiv.org/abs/2410.11143. Formula: -a(P_good) + b(P_forget), P the mean probability of
an answer's tokens over the batch, (a, b) the variational pair of the divergence (Nowozin et al. 2016,
https://arxiv.org/abs/1606.00709); total variation is the default. The authors' code counts positions without a label as
probability 0 and divides by all of them, so padding changes the loss: `positions` gives it. It has three pairs with the
sign of x turned, which make the template answer less likely and, but for Neyman's, the forget answer likelier: the
names that end in "-published". Its Jensen-Shannon rounds log 2 to float32.
Expect: probabilities move the loss only where they are not yet 0, so long answers move little. Cannot do: see a token
of vanishing probability.
"""

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from interventions.gradient.losses.said import Said

Divergence = Literal[
    "total-variation",
    "kl",
    "reverse-kl",
    "pearson",
    "neyman",
    "jensen-shannon",
    "jeffrey",
    "squared-hellinger",
    "reverse-kl-published",
    "neyman-published",
    "squared-hellinger-published",
]

_LOG2 = 0.6931471805599453
_PAIRS: Mapping[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "total-variation": (lambda x: x.tanh() / 2, lambda x: x.tanh() / 2),
    "kl": (lambda x: x, lambda x: (x - 1).exp()),
    "reverse-kl": (lambda x: -(-x).exp(), lambda x: x - 1),
    "pearson": (lambda x: x, lambda x: x**2 / 4 + x),
    "neyman": (lambda x: 1 - (-x).exp(), lambda x: 2 - 2 * (-x / 2).exp()),
    "jensen-shannon": (lambda x: _LOG2 - softplus(-x), lambda x: softplus(x) - _LOG2),
    "jeffrey": (lambda x: x, lambda x: x + x**2 / 4 + x**3 / 16),
    "squared-hellinger": (lambda x: 1 - (-x).exp(), lambda x: x.expm1()),
    "reverse-kl-published": (lambda x: -x.exp(), lambda x: -1 - x),
    # sqrt(1 - x) has an infinite slope at x = 1; the bound only keeps a certain answer from making it NaN.
    "neyman-published": (lambda x: 1 - x.exp(), lambda x: 2 - 2 * (1 - x).clamp_min(torch.finfo(x.dtype).tiny).sqrt()),
    "squared-hellinger-published": (lambda x: 1 - x.exp(), lambda x: (-x).expm1()),
}
"""Divergence -> what is made of the probability of the good answer, and of that of the forget answer."""


def flat(
    forget: Said,
    good: Said,
    divergence: Divergence = "total-variation",
    positions: tuple[int, int] | None = None,
) -> Float[Tensor, ""]:
    """The f-divergence between template and forget answers, made larger by making this smaller.

    Args:
        forget: the model in training on the forget facts.
        good: the model in training on template answers to the same questions.
        divergence: its name.
        positions: what the sums of probabilities are divided by, for `forget` and for `good`; None for the numbers of
            labelled tokens, rows times (length - 1) for the authors' code.
    """
    for_good, for_forget = _PAIRS[divergence]
    by_forget, by_good = positions or (len(forget.token), len(good.token))
    forget_probability = (-forget.loss).exp().sum() / by_forget
    good_probability = (-good.loss).exp().sum() / by_good
    return for_forget(forget_probability) - for_good(good_probability)
