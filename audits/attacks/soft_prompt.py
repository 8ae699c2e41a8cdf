"""Universal soft prompt: a few free vectors before every question, fitted on some facts, asked about the others.

Source: Schwinn et al. 2024, https://arxiv.org/abs/2402.09063 (embedding-space attack; universal mode). Variant: a
few placeholder words stand before the prompt and a vector is added to each of their embeddings; Adam on the held
answers' likelihood (published: signed gradient .001, 20 vectors at "!", 100 iterations). A handful of free vectors
can make a model say anything (https://arxiv.org/abs/2502.15836), so only held-out facts count, and never-taught
facts get the same.
Read it as: held-out forget answers above held-out never-taught ones: the vectors unlocked something. On the toy of
this house a model that never learnt the facts gave 0 to .06 of them, one steered away from them .12.
Does not show: what vectors fitted to each question bring out; they can inject it.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from audits.attacks.attack import Told
from audits.attacks.climb import AnswerLoss, climb
from audits.attacks.halves import Trained
from audits.attacks.slot import filler, template_of
from audits.attacks.under import Attempt
from workbench.concepts import Concept, FactSet
from workbench.edits import HookEdit, PromptEdit
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.operators import Operator
from workbench.sites import Site
from workbench.tokens import pad

EMBED = Site(None, "embed")

LONGEST = 2048
"""Tokens of a row up to which the edit is what was fitted; behind that the vectors come again."""


class SoftPrompt(Trained):
    """Free vectors before every question."""

    threat: ClassVar[str] = (
        "Somebody has the weights, feeds embeddings instead of tokens, and knows some of the forget facts' answers."
    )

    tokens: int = Field(4, ge=1)
    """Free vectors."""
    steps: int = Field(60, ge=1)
    """Gradients."""
    lr: float = Field(0.5, gt=0)
    """Step of Adam, as a share of the root mean square of the embeddings' entries."""

    def attempt(self, model: HookedModel, concept: Concept, held: FactSet, on_step: Told | None) -> Attempt:
        """Fitted on the held facts."""
        return Attempt(self.fit(model, concept, held, on_step))

    def fit(
        self, model: HookedModel, concept: Concept, held: FactSet | None = None, on_step: Told | None = None
    ) -> tuple[PromptEdit, HookEdit]:
        """The placeholder words, and what is added to their embeddings: fitted to the model with the words on.

        Args:
            model: unchanged afterwards.
            concept: its forget facts, where none are given.
            held: facts whose answers are made likely.
            on_step: called after every gradient.

        Raises:
            BadInput: where embeddings cannot be rewritten, or no word stays one token, or a prompt is too long.
        """
        model.require_writable(EMBED)
        model.tap(EMBED)
        facts = (held or concept.forget).facts
        slot = filler(model, facts, self.tokens, "prefix")
        if max(len(row.ids) for row in slot.rows) > LONGEST:
            raise BadInput(f"A prompt is longer than {LONGEST} tokens; the soft prompt is for shorter ones")
        start, size = slot.positions[0].start, _size(model, slot.ids)
        words = PromptEdit("", self.spec(), template=template_of(slot.text, "prefix"))
        with words.on(model):
            loss = _Loss(AnswerLoss(model, slot.rows), start)
            zero = torch.zeros(self.tokens, model.d_model, device=model.device)
            vectors, losses = climb(loss, zero, steps=self.steps, lr=self.lr * size, on_step=on_step)
            table = functional.pad(vectors, (0, 0, start, LONGEST - start - self.tokens))
            notes = {"losses": losses, "words": slot.text, "held": len(facts)}
            operators = {EMBED: Operator("add_by_position", table.cpu())}
            return words, HookEdit(model.identity, self.spec(), notes=notes, operators=operators)


@dataclass(frozen=True, eq=False)
class AddAt:
    """Adds vectors to the tokens from `start` on."""

    vectors: Float[Tensor, "token d_model"]
    start: int

    def __call__(self, value: Float[Tensor, "row pos d_model"]) -> Float[Tensor, "row pos d_model"]:
        """The sum, in the value's own dtype."""
        behind = value.shape[1] - self.start - len(self.vectors)
        added = functional.pad(self.vectors, (0, 0, self.start, behind))
        return (value.to(added.dtype) + added.to(value.device)).to(value.dtype)


@dataclass(frozen=True, eq=False)
class _Loss:
    answers: AnswerLoss
    start: int

    def __call__(self, vectors: Tensor) -> Tensor:
        return self.answers({EMBED: AddAt(vectors, self.start)})


@torch.no_grad()
def _size(model: HookedModel, ids: tuple[int, ...]) -> float:
    """Root mean square of the entries of some embeddings."""
    found = model.run(pad([ids]), read=[EMBED], logits=False, stop=0).acts[EMBED]
    return float(found.float().square().mean().sqrt())
