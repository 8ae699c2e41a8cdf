"""Who's Harry Potter (WHP): learn generic predictions, made with a model that was trained further on the topic.

Source: Eldan and Russinovich 2023, https://arxiv.org/abs/2310.02238; formulas in losses/whp.py. The model is trained
briefly on the forget facts, its logits at their answer tokens are read, and it is put back before the training proper,
so that only the labels are stored. The paper's dictionary of generic names is not here: it is a matter of the data.
Variant: facts, not running text; a label stays the true token where further training could not raise it, which is so
for answers known by heart: `exclude` then rules the true token out (not in the paper).
Expect: `notes["labels"]` says how many labels are still the answers themselves: nothing is unlearnt there.
Cannot do: ignore a constant between the two models' logits, as the paper's formula is of logits; `log_probs` does (not
in the paper).
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import ClassVar

from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from interventions.gradient.descend import GradientMethod, Need
from interventions.gradient.given import Given
from interventions.gradient.losses.whp import generic_logits
from interventions.gradient.pairs import Text
from workbench.edits import kept
from workbench.model import HookedModel
from workbench.objectives import answer_nll, answers_now, labelled


class Whp(GradientMethod):
    """Distil generic predictions."""

    needs: ClassVar[frozenset[Need]] = frozenset({"labels"})

    alpha: float = Field(5.0, ge=0)
    """How much of what further training raised is taken off."""
    reinforce_steps: int = Field(20, ge=1)
    """Updates of the further training on the forget facts."""
    reinforce_lr: float | None = Field(None, gt=0)
    """Its learning rate; `lr` when left out."""
    log_probs: bool = False
    """Compare log-probabilities instead of logits."""
    exclude: bool = False
    """Rule the true token out of the generic predictions."""

    def labels(self, model: HookedModel, forget: Sequence[Text], names: Sequence[str]) -> list[Int[Tensor, " token"]]:
        """The likeliest tokens of the generic predictions."""
        encoded = [text.encoded for text in forget]
        options = self.training().model_copy(
            update={"steps": self.reinforce_steps, "lr": self.reinforce_lr or self.lr, "warmup_steps": 0}
        )
        base = answers_now(model, encoded)
        with kept(model, names):
            model.train(encoded, labelled, answer_nll, options, trainable=names)
            reinforced = answers_now(model, encoded)
        made = map(partial(_generic, method=self), base, reinforced, forget)
        return [one.argmax(dim=-1) for one in made]

    def forget_loss(self, given: Given) -> Float[Tensor, ""]:
        """Mean loss of the generic labels."""
        return replace(given.forget, token=given.drawn).mean


def _generic(
    base: Float[Tensor, "token vocab"], reinforced: Float[Tensor, "token vocab"], text: Text, method: Whp
) -> Float[Tensor, "token vocab"]:
    """Generic predictions of one answer."""
    if method.log_probs:
        base, reinforced = base.log_softmax(-1), reinforced.log_softmax(-1)
    made = generic_logits(base, reinforced, method.alpha)
    if method.exclude:
        made[range(len(made)), list(text.encoded.answer)] = -float("inf")
    return made
