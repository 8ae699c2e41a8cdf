"""What a model says of facts before and after something of its base was put back, and how much of the way back it went.

Source: the Knowledge Recovery Score of Hong et al. 2024, https://arxiv.org/abs/2410.06606: one less the mean squared
error of the logits after over that before, both against the base's logits. Per answer, averaged afterwards, as in the
published code; but over the positions that predict the answer's tokens, where that code takes the answer's own (one
later, of 30 tokens), and so leaves out what predicts the first.
Read it as: 1 is the base's logits, 0 no nearer to them than before, below 0 further away.
Does not show: whether the answer comes out; a logit far from any answer weighs as much as the answer's own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from workbench.scoring import Targets, sum_by_row, token_scores


@dataclass(frozen=True)
class Heard:
    """What a model says of every fact."""

    exact: Float[np.ndarray, " fact"]
    """1 where greedy decoding gives the answer, else 0."""
    probability: Float[np.ndarray, " fact"]
    """Geometric mean over the answer's tokens."""
    error: Float[np.ndarray, " fact"]
    """Mean squared difference of the logits from the base's; NaN where those are not known."""
    size: Float[np.ndarray, " fact"]
    """Mean square of the base's logits; NaN where they are not known."""

    @classmethod
    def of(
        cls, logits: Float[Tensor, "answer vocab"], targets: Targets, base: Float[Tensor, "answer vocab"] | None
    ) -> "Heard":
        """From the logits that predict the answers of a batch.

        Args:
            logits: one row an answer token, in float32.
            targets: whose they are.
            base: what the base says there; None when it is not known.
        """
        rows, row = int(targets.row.max()) + 1, targets.row
        logprob, best, _ = token_scores(logits, targets.token)
        count = row.bincount(minlength=rows)
        exact = sum_by_row((~best).float(), row, rows).cpu() == 0
        probability = (sum_by_row(logprob, row, rows).cpu() / count).exp()
        error = size = torch.full((rows,), torch.nan)
        if base is not None:
            there = base.to(logits.device)
            error = sum_by_row((logits - there).square().mean(dim=1).double(), row, rows).cpu() / count
            size = sum_by_row(there.square().mean(dim=1).double(), row, rows).cpu() / count
        return cls(*(part.double().numpy() for part in (exact, probability, error, size)))

    @classmethod
    def joined(cls, parts: "Sequence[Heard]") -> "Heard":
        """Many batches as one."""
        names = ("exact", "probability", "error", "size")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def recovery_of(before: Heard, after: Heard, rounding: float) -> Float[np.ndarray, " fact"]:
    """Knowledge Recovery Score of every fact; NaN where the base is not known or there was nothing to recover.

    Args:
        before: with nothing put back.
        after: with something put back.
        rounding: unit roundoff of the model's dtype. Logits that differ by no more than twice this share of their
            root mean square count as the same, for their ratio would be noise.
    """
    with np.errstate(invalid="ignore"):
        apart = before.error > (2 * rounding) ** 2 * before.size
    return 1 - np.divide(after.error, before.error, out=np.full_like(before.error, np.nan), where=apart)


def why_none(before: Heard, scores: Float[np.ndarray, " fact"]) -> str | None:
    """Why some facts have no recovery score; None when all have."""
    missing = np.isnan(scores)
    if not missing.any():
        return None
    if np.isnan(before.error).all():
        return (
            "the base's logits are not known: this model's final norm or unembedding is another one than the base's; "
            "give the base's files (--against, look(..., against=Checkpoint(base)))"
        )
    return f"{int(missing.sum())} facts: the logits are the base's already, so there is nothing to recover"
