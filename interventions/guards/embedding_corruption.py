"""ECO: where a classifier sees a forget prompt, the embeddings of its subject are corrupted.

Source: Liu et al. 2024, https://arxiv.org/abs/2406.07933. Two classifiers (prompts, tokens) and a corruption of the
first dimensions of the picked tokens' embeddings: noise, zero or a flipped sign. The strength is searched without
gradients so that the forget answers become as likely as a model without them would find them. Published: RoBERTa
classifiers, fresh noise at every pass, the noise in dimension 1 only at large strength, zeroth-order descent on the
strength. Here: logistic regressions on the model's own embeddings; noise fixed by seed and position, so that the same
prompt always gets the same answer; all dimensions by default; doubling and halving of the interval instead of descent.
Expect: forget answers fall to the level of unknown ones, other prompts keep every bit unless the classifier fires.
Cannot do: know a subject written in other tokens. Nothing is removed.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from interventions.guards.prompt_classifier import ClassifiedGuard, logistic
from interventions.guards.prompts import line_between, readings, to_forget, to_keep
from workbench.concepts import Concept
from workbench.edits import HookEdit
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.operators import Gate, Operator
from workbench.scoring import score, score_candidates
from workbench.sites import Site
from workbench.triggers import Trigger

EMBED = Site(None, "embed")

PERIOD = 64
"""Positions after which the noise begins anew."""

STRENGTHS = tuple(0.25 * 2**i for i in range(10))
"""What the search tries first: 0.25 to 128."""


class EmbeddingCorruption(ClassifiedGuard):
    """Corrupt token embeddings of forget prompts."""

    mode: Literal["noise", "zero", "flip"] = "noise"
    """Add noise, set to zero, or turn the sign."""
    tokens: Literal["subject", "all"] = "subject"
    """Which tokens: those a classifier picks as the subject's, or all (also what is said afterwards)."""
    dims: int | None = Field(None, ge=1)
    """How many of the first dimensions are corrupted; None for all. The published search uses 1."""
    sigma: float | None = Field(None, gt=0)
    """Standard deviation of the noise, in multiples of the embeddings' own; None: the smallest that is enough."""
    halvings: int = Field(5, ge=0)
    """How often the search halves the interval that holds the strength."""

    def fit(self, model: HookedModel, concept: Concept, where: Sequence[Site] | None = None) -> HookEdit:
        """Fit both classifiers and find the strength.

        Args:
            model: only read.
            concept: forget facts, retain facts (else near and far ones), and never-taught facts for the level to reach.
            where: one site for the prompt classifier to look at; None for the token embeddings.

        Raises:
            BadInput: for too few prompts, or prompts that cannot be told apart.
        """
        model.require_writable(EMBED)
        if self.dims and self.dims > model.d_model:
            raise BadInput(f"The embeddings of {model.name} have {model.d_model} dimensions, so not {self.dims}")
        trigger, notes = self.trigger(model, concept, where)
        gate, picked = self._gate(model, concept)
        guard, notes = _Parts(trigger, gate, self._noise(model, concept)), {**notes, **picked}
        if self.mode == "noise" and self.sigma is None:
            sigma, found = self._search(model, concept, guard)
            return self._edit(model, guard, {**notes, **found}, sigma)
        return self._edit(model, guard, notes | ({"sigma": self.sigma} if self.sigma else {}), self.sigma or 0.0)

    def _gate(self, model: HookedModel, concept: Concept) -> tuple[Gate | None, dict[str, Any]]:
        """Which tokens are corrupted, and how well they are picked."""
        if self.tokens == "all":
            return None, {"tokens": "all"}
        facts = to_forget(concept, self.paraphrases)
        kept, _ = to_keep(concept, self.paraphrases)
        subjects, beside = [], []
        for value, encoded in zip(readings(model, facts, EMBED), model.encode(facts), strict=True):
            own = torch.zeros(len(value), dtype=torch.bool)
            own[[i for i in encoded.subject if i < len(own)]] = True
            subjects.append(value[own])
            beside.append(value[~own])
        inside = torch.cat(subjects)
        outside, away = torch.cat(beside), torch.cat(readings(model, kept, EMBED))
        weight, bias = logistic(inside, torch.cat([outside, away]), self.inverse_l2)
        scores = [rows @ weight + bias for rows in (inside, outside, away)]
        line = -line_between(-scores[0], -torch.cat(scores[1:]))
        shares = [float((one > line).double().mean()) for one in scores]
        names = ("subjects to forget", "beside them", "in prompts to keep")
        gate = Gate("linear", {"weight": weight.float()}, {"bias": float(bias), "threshold": line})
        return gate, {"tokens": dict(zip(names, shares, strict=True))}

    def _noise(self, model: HookedModel, concept: Concept) -> Float[Tensor, "position dim"]:
        """Noise for every position, as large as the embeddings' own entries (root mean square)."""
        own = torch.cat(readings(model, concept.forget.facts, EMBED)).square().mean().sqrt().float()
        generator = torch.Generator().manual_seed(self.seed)
        return own * torch.randn(PERIOD, self.dims or model.d_model, generator=generator)

    def _edit(self, model: HookedModel, guard: "_Parts", notes: dict[str, Any], sigma: float) -> HookEdit:
        index = None if self.dims is None else torch.arange(self.dims)
        if self.mode == "noise":
            operator = Operator("add_by_position", sigma * guard.noise, index, gate=guard.gate)
        else:
            operator = Operator("scale", torch.tensor([0.0 if self.mode == "zero" else -1.0]), index, gate=guard.gate)
        return HookEdit(model.identity, self.spec(), notes=notes, operators={EMBED: operator}, trigger=guard.trigger)

    def _search(self, model: HookedModel, concept: Concept, guard: "_Parts") -> tuple[float, dict[str, Any]]:
        """The smallest strength tried at which the forget answers are no likelier than unknown ones; else the best."""
        target, source = surrogate(model, concept)
        tried: dict[float, float] = {}
        for sigma in STRENGTHS:
            tried[sigma] = self._level(model, concept, guard, sigma)
            if tried[sigma] <= target:
                break
        enough = min(tried, key=tried.__getitem__)
        least = max((sigma for sigma in tried if sigma < enough), default=enough / 2)
        for _ in range(self.halvings if tried[enough] <= target else 0):
            middle = (least * enough) ** 0.5
            tried[middle] = self._level(model, concept, guard, middle)
            least, enough = (least, middle) if tried[middle] <= target else (middle, enough)
        levels = [{"sigma": sigma, "probability": level} for sigma, level in sorted(tried.items())]
        found = {"sigma": enough, "reached": tried[enough] <= target}
        return enough, found | {"level to reach": target, "level from": source, "levels": levels}

    def _level(self, model: HookedModel, concept: Concept, guard: "_Parts", sigma: float) -> float:
        with self._edit(model, guard, {}, sigma).on(model):
            return float(score(model, concept.forget.facts).probability.mean())


class _Parts(NamedTuple):
    """What does not depend on the strength."""

    trigger: Trigger
    gate: Gate | None
    noise: Float[Tensor, "position dim"]


def surrogate(model: HookedModel, concept: Concept) -> tuple[float, str]:
    """How likely the forget answers would be if they were not known, and where that comes from.

    The mean probability of never-taught answers; without such facts, what the model gives all candidates of a forget
    fact together, spread evenly over them.

    Raises:
        BadInput: when there are neither never-taught facts nor wrong answers.
    """
    if len(concept.never_taught):
        return float(score(model, concept.never_taught.facts).probability.mean()), "never-taught facts"
    facts = [fact for fact in concept.forget if fact.distractors]
    if not facts:
        raise BadInput(
            f"{concept.name} has no never-taught facts and no distractors, so nothing says how likely an unknown "
            "answer is: give either, or set sigma"
        )
    means = [float(logprobs.exp().mean()) for logprobs in score_candidates(model, facts)]
    return sum(means) / len(means), "candidates of the forget facts, spread evenly"
