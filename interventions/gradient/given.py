"""`Given`: what a loss is handed: what the model in training says of a batch, and what was known before.

Each part of a batch passes through the model when it is first asked for, and once: a method that does not look at the
forget facts does not pay for them. Only answer positions are unembedded.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from interventions.gradient.course import Course
from interventions.gradient.losses.kl import forward_kl, reverse_kl
from interventions.gradient.losses.kl_stored import TopK, forward_kl_stored, reverse_kl_stored
from interventions.gradient.losses.said import Said
from workbench.objectives import TokenLoss, answer_logits, answer_loss


@dataclass(eq=False)
class Given:
    """One batch."""

    model: PreTrainedModel
    """The model in training, only to be passed on."""
    batch: dict[str, Tensor]
    """As `pairs.collate` makes it."""
    course: Course
    """Where the training stands."""
    moving: Sequence[Tensor]
    """The parameters that may move."""
    whole: bool = False
    """Whether all positions are unembedded."""
    extra: Float[Tensor, ""] | None = None
    """A further term of the loss, weighted."""

    @cached_property
    def forget(self) -> Said:
        """The forget answers."""
        return self._said("forget.")

    @cached_property
    def retain(self) -> Said:
        """The retain answers."""
        return self._said("retain.")

    @cached_property
    def other(self) -> Said:
        """Other answers to the forget questions, row for row."""
        return self._said("other.")

    @cached_property
    def forget_loss(self) -> TokenLoss:
        """Token losses of the forget answers."""
        return answer_loss(self.model, self.batch, "forget.") if self.whole else _losses(self.forget)

    @cached_property
    def retain_loss(self) -> TokenLoss:
        """Token losses of the retain answers."""
        return answer_loss(self.model, self.batch, "retain.") if self.whole else _losses(self.retain)

    def pass_forget(self) -> None:
        """Let the forget facts pass through the model now, if they did not yet."""
        _ = self.forget_loss

    def drop(self) -> None:
        """Let go of what was said so far: it has been used, and holds memory."""
        for name in ("forget", "retain", "other", "forget_loss", "retain_loss"):
            vars(self).pop(name, None)
        self.extra = None

    def _said(self, prefix: str) -> Said:
        found = answer_logits(self.model, self.batch, prefix, self.whole)
        return Said(found.logits, found.token, found.row, found.rows)

    @property
    def original(self) -> Float[Tensor, " row"]:
        """Summed log-probability of each forget answer under the start model, nats."""
        return self.batch["forget.original"]

    @property
    def other_original(self) -> Float[Tensor, " row"]:
        """The same of each other answer."""
        return self.batch["other.original"]

    @property
    def reference(self) -> Float[Tensor, "n vocab"]:
        """Log-probabilities of the start model at the forget answers' tokens."""
        return self.batch["forget.reference"]

    @property
    def drawn(self) -> Int[Tensor, " n"]:
        """Tokens to learn in place of the forget answers'."""
        return self.batch["forget.drawn"]

    def positions(self, part: str) -> int:
        """Number of predicted positions of a part of the batch, padding and prompts included."""
        rows, length = self.batch[f"{part}.input_ids"].shape
        return rows * (length - 1)

    def retain_kl(self, reverse: bool) -> Float[Tensor, ""]:
        """KL divergence between the start model and this one on the retain answers; forward: KL(start || now)."""
        if "retain.reference" in self.batch:
            reference = self.batch["retain.reference"]
            return (reverse_kl if reverse else forward_kl)(self.retain.logits, reference)
        stored = TopK(self.batch["retain.reference.token"], self.batch["retain.reference.log_prob"])
        return (reverse_kl_stored if reverse else forward_kl_stored)(self.retain.logits, stored)


def _losses(said: Said) -> TokenLoss:
    return TokenLoss(said.total, said.count)
