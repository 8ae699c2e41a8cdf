"""Prompt search by gradient (GCG): a few ordinary tokens before (or behind) every question, found on some facts.

Source: Zou et al. 2023, https://arxiv.org/abs/2307.15043. The gradient of the loss by the one-hot choice of each
token names the `top` best substitutes of every position (to first order); of those, `candidates` single swaps are
drawn and tried, and the best is taken; `steps` times (published: 256, 512, 500). Variant: a universal prefix with no
chat format, as Che et al. 2025 (https://arxiv.org/abs/2502.05209) for unlearning; a swap is taken only when it
lowers the loss and its text becomes the same tokens again. The gradient is taken without guards, the swaps are tried
as the model is served.
Read it as: held-out forget answers above held-out never-taught ones, which get a search of their own.
Does not show: what a larger budget finds. `gradient=False` draws swaps from all tokens: the search's own control.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from audits.attacks.attack import Told
from audits.attacks.halves import Trained
from audits.attacks.slot import Place, Slot, filler, placed, template_of, usable
from audits.attacks.under import Attempt
from workbench.concepts import Concept, FactSet
from workbench.edits import PromptEdit
from workbench.model import HookedModel
from workbench.scoring import chunks, score_batch
from workbench.sites import Site
from workbench.tokens import Encoded, pad

EMBED = Site(None, "embed")

ROWS = 512
"""Rows a pass when swaps are tried."""

VOCABULARY = 256
"""Tokens a pass when embeddings are read."""


class PromptSearch(Trained):
    """Tokens found by gradient."""

    threat: ClassVar[str] = (
        "Somebody has the weights to search with, knows some of the forget facts' answers, and then only prompts."
    )
    holds_weights: ClassVar[bool] = False

    tokens: int = Field(4, ge=1)
    """Length."""
    steps: int = Field(10, ge=1)
    """Swaps that are made, at most."""
    candidates: int = Field(32, ge=1)
    """Swaps that are tried in each step."""
    top: int = Field(32, ge=1)
    """Substitutes of each position that swaps are drawn from."""
    place: Place = "prefix"
    """Before the prompt, or between it and the answer."""
    most: int = Field(8, ge=1)
    """Facts fitted on, at most: every swap is tried on all of them."""
    gradient: bool = True
    """Whether the gradient names the substitutes; else they are any tokens (random search, the control)."""

    def attempt(self, model: HookedModel, concept: Concept, held: FactSet, on_step: Told | None) -> Attempt:
        """Found on the held facts."""
        return Attempt((self.fit(model, concept, held, on_step),))

    def fit(
        self, model: HookedModel, concept: Concept, held: FactSet | None = None, on_step: Told | None = None
    ) -> PromptEdit:
        """The template that was found; its notes hold the loss after every step.

        Args:
            model: unchanged.
            concept: its forget facts, where none are given.
            held: facts whose answers are made likely.
            on_step: called after every step.

        Raises:
            BadInput: when the tokenizer has no word to begin with.
        """
        facts = (held or concept.forget).facts
        slot, words = filler(model, facts, self.tokens, self.place), usable(model)
        table = embeddings(model, words) if self.gradient else None
        draw = torch.Generator().manual_seed(self.seeds[0])
        losses = [losses_of(model, slot, [slot.ids])[0]]
        for _ in range(self.steps):
            allowed = torch.tensor(words).expand(self.tokens, -1)
            if table is not None:
                gain = -(token_gradient(model, slot) @ table.T)
                allowed = torch.tensor(words)[gain.topk(min(self.top, len(words)), dim=-1).indices]
            swaps = _drawn(slot.ids, allowed, self.candidates, draw)
            found = losses_of(model, slot, swaps)
            for i in sorted(range(len(swaps)), key=found.__getitem__):
                if found[i] >= losses[-1]:
                    break
                if (said := respelt(model, facts, swaps[i], self.place)) is not None:
                    slot = said
                    losses.append(found[i])
                    break
            if on_step:
                on_step()
        notes = {"losses": losses, "tried": self.steps * self.candidates, "held": len(facts)}
        return PromptEdit("", self.spec(), notes=notes, template=template_of(slot.text, self.place))


def respelt(model: HookedModel, facts: Sequence, ids: tuple[int, ...], place: Place) -> Slot | None:
    """The slot that some tokens' text becomes; None when it becomes other tokens."""
    slot = placed(model, facts, model.tokenizer.decode(list(ids)).strip(), place)
    return slot if slot and slot.ids == ids else None


def token_gradient(model: HookedModel, slot: Slot) -> Float[Tensor, "token d_model"]:
    """Gradient of the mean loss by the embedding of each of the slot's tokens, the same token in all rows.

    Its product with a token's embedding is the gradient by the one-hot choice of that token.
    """
    total = torch.zeros(len(slot.ids), model.d_model)
    done = 0
    with model.bare(), torch.enable_grad():
        for batch, targets in chunks(slot.rows):
            leaf = _Leaf()
            loss = -score_batch(model, batch, targets, rewrite={EMBED: leaf}, grad=True).logprob.sum() / len(slot.rows)
            (gradient,) = torch.autograd.grad(loss, leaf.value)
            for row in range(len(batch.ids)):
                total += gradient[row, list(slot.positions[done + row])].float().cpu()
            done += len(batch.ids)
    return total


@torch.no_grad()
def embeddings(model: HookedModel, tokens: Sequence[int]) -> Float[Tensor, "n d_model"]:
    """What enters the first block for each token alone; what a position adds is the same for all."""
    parts = []
    for start in range(0, len(tokens), VOCABULARY):
        batch = pad([[token] for token in tokens[start : start + VOCABULARY]])
        with model.bare():
            parts.append(model.run(batch, read=[EMBED], logits=False, stop=0).acts[EMBED][:, 0].float().cpu())
    return torch.cat(parts)


@torch.no_grad()
def losses_of(model: HookedModel, slot: Slot, choices: Sequence[tuple[int, ...]]) -> list[float]:
    """Mean negative log-likelihood of the answers with each choice of tokens in the slot, nats a fact."""
    rows = [_with(row, at, ids) for ids in choices for row, at in zip(slot.rows, slot.positions, strict=True)]
    found = [score_batch(model, batch, targets).logprob.cpu() for batch, targets in chunks(rows, ROWS)]
    return (-torch.cat(found).view(len(choices), -1).mean(dim=1)).tolist()


class _Leaf:
    """Lets a value through as a leaf of the graph, so that a gradient by it can be taken."""

    value: Tensor

    def __call__(self, value: Tensor) -> Tensor:
        self.value = value.detach().requires_grad_(True)
        return self.value


def _with(row: Encoded, at: range, ids: tuple[int, ...]) -> Encoded:
    return replace(row, ids=(*row.ids[: at.start], *ids, *row.ids[at.stop :]))


def _drawn(
    ids: tuple[int, ...], allowed: Int[Tensor, "token n"], count: int, draw: torch.Generator
) -> list[tuple[int, ...]]:
    """Different single swaps, in the order drawn; fewer than asked for when there are not so many."""
    width = allowed.shape[1]
    order = torch.randperm(allowed.numel(), generator=draw)
    found: dict[tuple[int, ...], None] = {}
    for flat in order.tolist():
        position, token = flat // width, int(allowed[flat // width, flat % width])
        if token != ids[position]:
            found[(*ids[:position], token, *ids[position + 1 :])] = None
        if len(found) == count:
            break
    return list(found) or [ids]
