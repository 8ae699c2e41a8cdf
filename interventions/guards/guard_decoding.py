"""GUARD: where a classifier sees a forget prompt, the answers of the nearest stored facts may not be said.

Source: Deng et al. 2025, https://arxiv.org/abs/2505.13312: an MLP on prompt embeddings detects, SBERT retrieves the
nearest stored question with its forbidden tokens, and constrained decoding penalises them, also tokens of similar
meaning. Here: logistic regression and retrieval on the model's own embeddings; exact tokens only.
Expect: the stored answers are never said where the guard fires, also when they would be right (less often than by
chance, which tells whoever knows the candidates something); what is said instead is the model's next best.
Cannot do: withhold another wording or spelling of the answer. Nothing is removed; the answers are even stored a second
time, in the guard.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from pydantic import Field
from torch import Tensor

from interventions.guards.prompt_classifier import ClassifiedGuard, prompt_means
from interventions.guards.prompts import to_forget
from workbench.concepts import Concept
from workbench.edits import HookEdit
from workbench.model import HookedModel
from workbench.sites import Site
from workbench.speech import Speech


class GuardDecoding(ClassifiedGuard):
    """Forbid stored answers while decoding."""

    nearest: int = Field(3, ge=1)
    """How many stored facts are looked up for a prompt; all their answers are forbidden."""
    completing: bool = False
    """Forbid only the token that would complete an answer; otherwise also those that begin or continue it."""

    def fit(self, model: HookedModel, concept: Concept, where: Sequence[Site] | None = None) -> HookEdit:
        """Fit the classifier and store the questions and their answers.

        Args:
            model: only read.
            concept: forget facts, and retain facts (else near and far ones).
            where: one site at which prompts are judged and compared; None for the token embeddings.

        Raises:
            BadInput: for too few prompts, or prompts that cannot be told apart.
        """
        trigger, notes = self.trigger(model, concept, where)
        wordings = to_forget(concept, self.paraphrases)
        answers = sorted({encoded.answer for encoded in model.encode(wordings)})
        owner = torch.tensor([answers.index(encoded.answer) for encoded in model.encode(wordings)])
        keys = prompt_means(model, wordings, trigger.site).float()
        speech = Speech(
            "forbid",
            {"keys": keys, "owner": owner, "phrases": stacked(answers)},
            {"site": str(trigger.site), "nearest": self.nearest, "completing": self.completing},
        )
        notes |= {"answers stored": len(answers), "wordings stored": len(wordings)}
        return HookEdit(model.identity, self.spec(), notes=notes, trigger=trigger, speech=speech)


def stacked(answers: Sequence[Sequence[int]]) -> Int[Tensor, "answer length"]:
    """Token ids, then -1."""
    length = max(len(answer) for answer in answers)
    return torch.tensor([[*answer, *[-1] * (length - len(answer))] for answer in answers])
