"""What a model said at the labelled tokens of a batch: the one thing every loss here is a function of.

Only answer positions are kept, so prompt and padding cannot enter a loss. Published code that averages over more
positions is the same function of a `Said` made with more labels (docs/losses.md says which).
Numbers are float32 whatever the model computes in, and float64 where that came in.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from workbench.errors import BadInput
from workbench.objectives import IGNORED


def wide(logits: Float[Tensor, "*at vocab"]) -> Float[Tensor, "*at vocab"]:
    """The same numbers in float32, or in float64 if they came so: losses of bfloat16 sums would be rounded."""
    return logits if logits.dtype == torch.float64 else logits.float()


@dataclass(frozen=True)
class Said:
    """The labelled tokens of a batch and the logits that predict them."""

    logits: Float[Tensor, "n vocab"]
    """Logits that predict each labelled token, kept in float32 or float64."""
    token: Int[Tensor, " n"]
    """The labelled token."""
    row: Int[Tensor, " n"]
    """Row of the batch it belongs to; within a row, tokens stand in the order of the text."""
    rows: int
    """Number of rows of the batch, those without a labelled token included."""

    def __post_init__(self) -> None:
        if not len(self.token):
            raise BadInput(
                "a loss came with no labelled token: every label is ignored or was skipped; a batch needs at least one "
                "answer token, so check that answers survive tokenising, truncation and `skip`"
            )
        object.__setattr__(self, "logits", wide(self.logits))

    @classmethod
    def of(cls, logits: Float[Tensor, "row pos vocab"], labels: Int[Tensor, "row pos"]) -> "Said":
        """From a model's output: each label is predicted from the position before it, -100 is ignored.

        Raises:
            BadInput: when no label is left.
        """
        shifted = labels[:, 1:]
        where = shifted != IGNORED
        return cls(logits[:, :-1][where], shifted[where], where.nonzero()[:, 0], len(labels))

    @property
    def log_prob(self) -> Float[Tensor, "n vocab"]:
        """Log-probability of every token of the vocabulary, nats."""
        return self.logits.log_softmax(dim=-1)

    @property
    def others(self) -> Float[Tensor, "n vocab"]:
        """The logits with the labelled token ruled out (minus infinity)."""
        return self.logits.scatter(1, self.token[:, None], -torch.inf)

    @property
    def loss(self) -> Float[Tensor, " n"]:
        """Negative log-likelihood of each labelled token, nats."""
        return functional.cross_entropy(self.logits, self.token, reduction="none")

    @property
    def total(self) -> Float[Tensor, " rows"]:
        """Its sum over the tokens of each row."""
        loss = self.loss
        return loss.new_zeros(self.rows).index_add(0, self.row, loss)

    @property
    def count(self) -> Int[Tensor, " rows"]:
        """Number of labelled tokens of each row."""
        return torch.bincount(self.row, minlength=self.rows)

    @property
    def mean(self) -> Float[Tensor, ""]:
        """Mean over all labelled tokens of the batch (not the mean of row means)."""
        return self.loss.mean()

    @property
    def per_row(self) -> Float[Tensor, " rows"]:
        """Mean over the tokens of each row; 0 for a row without any."""
        return self.total / self.count.clamp_min(1)

    def over_rows(self, value: Float[Tensor, " rows"]) -> Float[Tensor, ""]:
        """Mean over the rows that have a labelled token."""
        return value[self.count > 0].mean()

    def after(self, skip: int) -> "Said":
        """Without the first `skip` labelled tokens of each row.

        Raises:
            BadInput: when that leaves nothing.
        """
        order = self.row.argsort(stable=True)
        start = self.count.cumsum(0) - self.count
        place = torch.empty_like(self.row)
        place[order] = torch.arange(len(order), device=order.device) - start[self.row[order]]
        kept = place >= skip
        return Said(self.logits[kept], self.token[kept], self.row[kept], self.rows)
