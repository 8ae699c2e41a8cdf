"""Logit lens: at which layer could the model already say the answer, if that layer were its last?

Source: nostalgebraist 2020, "interpreting GPT: the logit lens",
https://www.lesswrong.com/posts/AcKRB8wDpdaN6v6ru/interpreting-gpt-the-logit-lens: the residual stream after every
block through the model's own final norm and unembedding (and the caps and scales behind it). Variant: an answer of
several tokens is teacher forced and scored whole, each token at the position that predicts it (the original reads one
next token). `lens="tuned"` puts a learned affine translation before it (`probes.tuned_lens`).
Read it as: an answer that a middle layer ranks first and the last layer does not was silenced, not removed. The last
layer is the model's own output. With `statistic="choice"` chance is 1 / number of candidates. Whatever is read of
whole answers, the notes keep the answer's `rank` (layer, fact) beside it, from the same pass.
Does not show: knowledge in another form than the unembedding's; early layers of many models need a trained
translation to be readable, so a low value there is no proof of absence (see `linear_probes`, and the tuned lens).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from probes.lens_readings import EACH, Where, choice, entry, lens_positions, lens_scores
from probes.tuned_lens import Progress, Translators, TunedOptions, fit_translators
from workbench.concepts import FactSet
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.registry import Method
from workbench.tokens import Encoded, encode_text
from workbench.trace import Trace

UNITS = {
    "probability": "probability",
    "logprob": "nats",
    "rank": "rank (1 is first, smaller is more knowledge)",
    "choice": "share of facts",
    "entropy": "nats",
    "entry": "blocks run before the answer enters the top k",
}
"""Unit of each statistic."""


class LogitLens(Method):
    """How far every layer already is with the answer."""

    statistic: Literal["probability", "logprob", "rank", "choice", "entropy", "entry"] = "probability"
    """Of the answer: its probability, log-probability, worst rank of its tokens in the vocabulary, or whether it is
    the likeliest of the fact's candidates (1, 0, or 1/n when n tie). `entropy` is of the lens's distribution (mean over
    the positions). `entry` is the number of blocks after which the answer is among the first `top_k` for the first
    time (0: already in the embeddings; not a number where it never is), so it has no layer axis."""
    answer: Literal["whole", "first_token"] = "whole"
    """Score every token of the answer, or its first alone (as the original does)."""
    positions: Where = "together"
    """`together` takes the positions that predict the answer as one; `answer` shows each of them, `prompt` shows every
    position of the prompt, asked for the answer's first token (-1 is the prompt's last, which predicts it)."""
    top_k: int = Field(default=1, ge=1)
    """For `entry`: the rank that counts as entered."""
    lens: Literal["logit", "tuned"] = "logit"
    """The unembedding as it is, or after a translation trained on the concept's text and other facts."""
    steps: int = Field(default=250, ge=0)
    """For the tuned lens: updates of each layer; 0 leaves the logit lens."""
    lr: float = Field(default=1e-3, gt=0)
    """For the tuned lens: learning rate of Adam."""
    max_tokens: int = Field(default=4096, ge=2)
    """For the tuned lens: tokens of text it learns from, at most."""
    seed: int = 0
    """For the tuned lens: of the order of tokens."""

    @model_validator(mode="after")
    def _fits_together(self) -> "LogitLens":
        if self.statistic == "choice" and self.positions != "together":
            raise ValueError("candidates have different tokens, so choice is read at positions='together' only")
        return self

    @torch.no_grad()
    def look(
        self,
        model: HookedModel,
        facts: FactSet,
        texts: Sequence[str] | None = None,
        near: FactSet | None = None,
        far: FactSet | None = None,
        progress: Progress | None = None,
    ) -> Trace:
        """Read every layer at the positions that predict the answer.

        Args:
            model: the model.
            facts: what to ask for.
            texts: for the tuned lens: plain text to learn from.
            near: for the tuned lens: facts to learn from too; those about a subject that is read are left out.
            far: the same.
            progress: told of layers trained and in all.

        Raises:
            BadInput: when there are no facts, or nothing that a tuned lens could learn from.
        """
        about = model.about(facts)
        others = [other for other in (near, far) if other is not None]
        translators = self._translators(model, facts, list(texts or ()), others, progress)
        values, more = (self._choice if self.statistic == "choice" else self._values)(model, facts, translators)
        labels = {"layer": tuple(model.stream), "position": (), "fact": facts.labels}
        axes = ["layer", "position", "fact"]
        if self.positions == "together":
            axes.remove("position")
        else:
            labels["position"] = EACH[self.positions](values.shape[1])
        if self.statistic == "entry":
            axes.remove("layer")
            values = entry(values, self.top_k)
        notes = {"options": self.spec(), **more, "tuned": translators.notes or None, "axes": _said(axes)}
        shown = {axis: labels[axis] for axis in axes}
        return Trace("logit_lens", values.numpy(), tuple(axes), UNITS[self.statistic], shown, about | notes)

    def _translators(
        self,
        model: HookedModel,
        facts: FactSet,
        texts: list[str],
        others: Sequence[FactSet],
        progress: Progress | None,
    ) -> Translators:
        """What stands before the unembedding; nothing for the logit lens."""
        if self.lens == "logit":
            return Translators()
        read = set(facts.subjects)
        kept = [fact for other in others for fact in other if fact.cluster not in read]
        rows = [e.ids for e in model.encode(kept)] + [encode_text(model.tokenizer, text) for text in texts]
        if len(rows) < 2:
            raise BadInput(
                "A tuned lens must learn from something else than the facts it reads: give `texts`, or `near` or `far` "
                f"facts about other subjects (got {len(texts)} texts and {len(kept)} such facts); or use lens='logit'"
            )
        generator = torch.Generator().manual_seed(self.seed)
        rows = [rows[i] for i in torch.randperm(len(rows), generator=generator)]
        options = TunedOptions(steps=self.steps, lr=self.lr, max_tokens=self.max_tokens, seed=self.seed)
        return fit_translators(model, rows, options, progress)

    def _encoded(self, model: HookedModel, facts: FactSet) -> list[Encoded]:
        encoded = model.encode(facts.facts)
        if self.answer == "whole":
            return encoded
        return [replace(e, ids=e.ids[: e.answer_start + 1]) for e in encoded]

    def _choice(
        self, model: HookedModel, facts: FactSet, translators: Translators
    ) -> tuple[Float[Tensor, "layer fact"], dict[str, Any]]:
        """Whether each layer prefers the answer to the other candidates, and what chance is."""
        asked = [fact.model_copy(update={"answer": word}) for fact in facts for word in fact.candidates]
        encoded = self._encoded(model, facts.model_copy(update={"facts": tuple(asked)}))
        found = lens_scores(model, encoded, translators)
        candidates = [len(fact.candidates) for fact in facts]
        values = torch.stack([choice(of_fact) for of_fact in found.logprob.split(candidates, dim=1)], dim=1)
        chance = float(np.mean([1 / n for n in candidates if n > 1])) if max(candidates) > 1 else None
        answers = np.cumsum([0, *candidates[:-1]]).tolist()  # the answer is the first of a fact's candidates
        return values, {
            "chance": chance,
            "without_candidates": candidates.count(1),
            "rank": _ranks(found.rank[:, answers]),
        }

    def _values(
        self, model: HookedModel, facts: FactSet, translators: Translators
    ) -> tuple[Float[Tensor, "layer *pos fact"], dict[str, Any]]:
        encoded = self._encoded(model, facts)
        if self.positions == "together":
            found = lens_scores(model, encoded, translators)
        else:
            found = lens_positions(model, encoded, translators, self.positions)
        of = {"logprob": found.logprob, "rank": found.rank, "entropy": found.entropy, "entry": found.rank}
        values = found.logprob.exp() if self.statistic == "probability" else of[self.statistic]
        beside = self.positions == "together" and self.statistic not in ("rank", "entry")
        return values, {
            "chance": None,
            "without_candidates": None,
            **({"rank": _ranks(found.rank)} if beside else {}),
        }


def _ranks(rank: Float[Tensor, "layer fact"]) -> list[list[int]]:
    """As the notes hold them: read in the same pass, so they cost nothing."""
    ranks: list[list[int]] = rank.int().tolist()
    return ranks


def _said(axes: Sequence[str]) -> dict[str, str]:
    """Axes in words."""
    words = {
        "layer": "embed is what enters the first block, L3 what leaves block 3; the last is the output",
        "position": "answer 1 predicts the answer's first token; -1 is the prompt's last token",
    }
    return {axis: words[axis] for axis in axes if axis in words}
