"""Neuron Adjust's mathematics: which neurons differ between two sets, and what a neuron's value becomes.

A neuron's pre-activation is taken as normal on the kept texts (mean m1, spread s1) and on those to forget (m2, s2). A
value that the second explains better is left with probability q1 / (q1 + q2), else moved to where the kept texts are,
mirrored: z = (x - m2) / s2, x' = m1 - s1 * z. A spread of 0 counts as `LEAST`.

The draw is a hash of seed, layer, expert, neuron and position in the row (`salts`, `draws`): what happens to a prompt
depends neither on its neighbours in a batch nor on any random state. Two prompts have the same draws at each position.

Source: "Effective Skill Unlearning through Intervention and Abstention", NAACL 2025,
https://arxiv.org/abs/2503.21730. The densities are compared as logarithms, which cannot underflow.
Does not show: whether the skill is gone; the weights are untouched.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.errors import BadInput

LEAST = 1e-6
"""The smallest spread: a neuron that never moved on one set."""

_WORD = 0xFFFFFFFF
_ROUNDS = ((16, 0x7FEB352D), (15, 0x846CA68B - 2**32))
"""Shifts and factors of a 32-bit mix (Wellons' lowbias32); the second, less 2^32, keeps products within 63 bits."""


def top_share(scores: Float[Tensor, " n"], share: float) -> tuple[Bool[Tensor, " n"], float]:
    """The highest scores: those at or above the entry int(n * (1 - share / 100)) of the ascending list.

    Args:
        scores: one number a neuron.
        share: per cent.

    Returns:
        Which are chosen (more than the share where scores tie, none where the share is less than rounding can see), and
        the threshold.
    """
    at = int(len(scores) * (1 - share / 100))
    threshold = float(scores.sort().values[at]) if at < len(scores) else math.inf
    return scores >= threshold, threshold


def pick(
    scores: Sequence[Float[Tensor, " _"]], share: float, how: Literal["score", "random", "all"], seed: int
) -> tuple[list[Bool[Tensor, " _"]], float | None]:
    """Which neurons to adjust, over all sites together, and the score from which on (None when it was not by score).

    Args:
        scores: for every site, one number a neuron.
        share: per cent of all neurons.
        how: the highest; as many drawn at random, none of the highest where there are enough others; or all.
        seed: of the random ones.

    Raises:
        BadInput: when the share is less than one neuron.
    """
    every = torch.cat(list(scores))
    best, threshold = top_share(every, share)
    if not best.any():
        raise BadInput(f"{share} per cent of {len(every)} neurons is not one neuron: give a larger share")
    if how == "random":
        number, others = int(best.sum()), (~best).nonzero()[:, 0]
        pool = others if len(others) >= number else torch.arange(len(every))
        order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed))
        best = torch.zeros_like(best)
        best[pool[order[:number]]] = True
    elif how == "all":
        best = torch.ones_like(best)
    return list(best.split([len(part) for part in scores])), threshold if how == "score" else None


def neuron_adjust(
    value: Float[Tensor, "*row pos n"],
    *,
    keep_mean: Float[Tensor, " n"],
    keep_std: Float[Tensor, " n"],
    forget_mean: Float[Tensor, " n"],
    forget_std: Float[Tensor, " n"],
    salt: Int[Tensor, " n"],
    published: bool = False,
) -> Float[Tensor, "*row pos n"]:
    """Values of some neurons, those that look like the forget texts moved to where the kept texts are.

    Args:
        value: pre-activations; the second last axis is the position in the row.
        keep_mean: mean on the kept texts.
        keep_std: spread on the kept texts.
        forget_mean: mean on the texts to forget.
        forget_std: spread on the texts to forget.
        salt: one number a neuron (`salts`).
        published: the arithmetic of the released code (`shifted_published`), and one draw for all positions.
    """
    if published:
        return shifted_published(value, keep_mean, keep_std, forget_mean, forget_std, draws(salt))
    uniform = draws(salt, torch.arange(value.shape[-2], device=value.device))
    return shifted(value, keep_mean, keep_std, forget_mean, forget_std, uniform)


def shifted(
    value: Float[Tensor, "*any n"],
    keep_mean: Float[Tensor, " n"],
    keep_std: Float[Tensor, " n"],
    forget_mean: Float[Tensor, " n"],
    forget_std: Float[Tensor, " n"],
    uniform: Float[Tensor, "*some"],
) -> Float[Tensor, "*any n"]:
    """As the paper has it, with the draws given (any shape that broadcasts)."""
    keep_std, forget_std = keep_std.clamp(min=LEAST), forget_std.clamp(min=LEAST)
    near, far = (value - keep_mean) / keep_std, (value - forget_mean) / forget_std
    more = (far.square() - near.square()) / 2 + forget_std.log() - keep_std.log()
    left = (more > 0) | (uniform.to(value.dtype) < more.sigmoid())
    return torch.where(left, value, keep_mean - keep_std * far)


def shifted_published(
    value: Float[Tensor, "*any n"],
    keep_mean: Float[Tensor, " n"],
    keep_std: Float[Tensor, " n"],
    forget_mean: Float[Tensor, " n"],
    forget_std: Float[Tensor, " n"],
    uniform: Float[Tensor, "*some"],
) -> Float[Tensor, "*any n"]:
    """As the released code has it: densities themselves, and spreads as they come, also negative (then all is left).

    What is no number there (a spread of 0) is left as it was.
    """
    kept, forgotten = _density(value, keep_mean, keep_std), _density(value, forget_mean, forget_std)
    moved = keep_mean - keep_std * ((value - forget_mean) / forget_std)
    left = (kept > forgotten) | (uniform.to(value.dtype) < kept / (kept + forgotten)) | ~moved.isfinite()
    return torch.where(left, value, moved)


def _density(value: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return (-((value - mean) / std).square() / 2).exp() / (std * math.sqrt(2 * math.pi))


def salts(neurons: Int[Tensor, " n"], *, seed: int, layer: int, expert: int | None = None) -> Int[Tensor, " n"]:
    """One 32-bit number a neuron: a hash of the seed and of where the neuron is."""
    state = torch.tensor(seed & _WORD)
    for part in (seed >> 32 & _WORD, layer, 0 if expert is None else expert + 1):
        state = _mixed(_mixed(state) ^ part)
    return _mixed(state ^ neurons.long())


def draws(salt: Int[Tensor, " n"], positions: Int[Tensor, " pos"] | None = None) -> Float[Tensor, "*pos n"]:
    """Uniform numbers between 0 and 1, both left out: for every position, or one draw for all."""
    state = salt if positions is None else salt ^ _mixed(positions + 1)[:, None]
    return ((_mixed(state) >> 9).float() + 0.5) / 2**23  # 24 bits, so exact in float32


def _mixed(state: Tensor) -> Tensor:
    """A number of 32 bits, held in 64, stirred so that every bit depends on every other."""
    for shift, factor in _ROUNDS:
        state = (state ^ (state >> shift)) * factor & _WORD
    return state ^ (state >> 16)
