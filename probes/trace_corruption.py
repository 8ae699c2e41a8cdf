"""What stands in for a subject, and for which facts a trace has something to explain.

`replace` puts another fact's subject of as many tokens in its place (symmetric token replacement, Zhang & Nanda 2024,
https://arxiv.org/abs/2309.16042, who recommend it: the text stays one the model knows); `noise` adds Gaussian noise to
its token embeddings (Meng et al. 2022, https://arxiv.org/abs/2202.05262), of `noise_scale` standard deviations of all
the subjects' embeddings, measured where they enter the first block.
Read it as: the options that `causal_trace` and `attribution_patching` share. A fact is left out, with the reason in the
notes, when the model does not give its answer (nothing is there to restore), no other subject fits, or no wrong answer
is known for a logit difference.
Does not show: anything by itself.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from probes.trace_metrics import Closeness, LogProbability, Measure, Metric, first_difference
from workbench.concepts import FactSet
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.registry import Method
from workbench.scoring import batch_of, chunks, score
from workbench.sites import Site
from workbench.tokens import Encoded

EMBED = Site(None, "embed")

UNANSWERED = "the model does not give the answer"
NO_STAND_IN = "no other subject of as many tokens has another answer"
NO_WRONG_ANSWER = "no wrong answer is known that differs from the answer in a token"


@dataclass(frozen=True, eq=False)
class Case:
    """One fact that can be traced."""

    number: int
    """Which fact of the set."""
    encoded: Encoded
    """Prompt and answer."""
    corrupted: Float[Tensor, "sample subject d_model"]
    """Embeddings put at the subject's positions, one set a sample."""
    measures: tuple[Measure, ...]
    """What each sample is scored by."""
    instead: tuple[str, ...] = ()
    """What stands in for the subject, one a sample: another subject, or `noise 1`, `noise 2`, ..."""
    noise: float | None = None
    """Standard deviation of the noise in each entry of an embedding; None where the subject is swapped."""

    @property
    def kept(self) -> list[int]:
        """Positions that predict the answer's tokens."""
        return list(range(self.encoded.answer_start - 1, len(self.encoded.ids) - 1))


class Corrupting(Method):
    """What is done to the subject, how answers are scored, and which facts are worth it."""

    corruption: Literal["replace", "noise"] = "replace"
    """Swap the subject for another fact's subject of as many tokens, or add Gaussian noise to its embeddings."""
    noise_scale: float = 3.0
    """For noise: its size, in standard deviations of the subjects' token embeddings."""
    samples: int = Field(default=2, ge=1)
    """Corrupted copies of each fact, over which scores are averaged; with noise 10 is usual."""
    metric: Metric = "probability"
    """Of the whole answer: probability or log-probability (which also shows what pushes a small probability further
    down); logit difference to a wrong answer, the stand-in's or a distractor; or KL divergence to the clean run."""
    unanswered: Literal["skip", "trace"] = "skip"
    """Facts whose answer is not what the model says (greedily): leave them out and count them, or trace them too."""
    min_probability: float = Field(default=0.0, ge=0, lt=1)
    """An answer whose probability in the clean run is lower counts as unanswered too."""
    max_facts: int = Field(default=100, ge=1)
    """Trace at most this many facts, the first."""
    seed: int = 0
    """Of the noise, or of the choice of replacements; all sites of a fact share one corruption."""

    def cases(self, model: HookedModel, facts: FactSet) -> tuple[list[Case], dict[int, str]]:
        """The facts that can be traced, and why the others cannot (by their number)."""
        encoded, answered = model.encode(facts.facts), self._answered(model, facts)
        stand_ins = replacements(facts, encoded, self.samples, self.seed) if self.corruption == "replace" else None
        embeddings = subject_embeddings(model, encoded)
        spread = self.noise_scale * torch.cat(embeddings).float().std()
        found, why = [], {}
        for f, one in enumerate(encoded):
            if not answered[f]:
                why[f] = UNANSWERED
                continue
            chosen = [None] * self.samples if stand_ins is None else stand_ins[f]
            measures = self._measures(model, facts, (f, one), chosen)
            there = [i for i, measure in enumerate(measures) if measure is not None]
            if not there:
                why[f] = NO_WRONG_ANSWER if chosen else NO_STAND_IN
                continue
            if stand_ins is None:
                put, size = _noised(embeddings[f], spread, self.samples, self.seed), float(spread)
                names = [f"noise {i + 1}" for i in range(self.samples)]
            else:
                put, size = torch.stack([embeddings[j] for j in stand_ins[f]]), None
                names = [facts.facts[j].subject for j in stand_ins[f]]
            scored = tuple(measure for measure in measures if measure is not None)
            found.append(Case(f, one, put[there], scored, tuple(names[i] for i in there), size))
        return found, why

    def _answered(self, model: HookedModel, facts: FactSet) -> list[bool]:
        if self.unanswered == "trace":
            return [True] * len(facts)
        scores = score(model, facts.facts)
        return (scores.greedy & (scores.probability >= self.min_probability)).tolist()

    def _measures(
        self, model: HookedModel, facts: FactSet, one: tuple[int, Encoded], chosen: Sequence[int | None]
    ) -> list[Measure | None]:
        """What each sample of a fact is scored by; None where a logit difference has no wrong answer."""
        f, encoded = one
        if self.metric == "kl":
            closeness = Closeness(_clean_logprobs(model, encoded))
            return [closeness for _ in chosen]
        if self.metric == "logit_difference":
            return [_difference(model, facts, (f, encoded), stand_in) for stand_in in chosen]
        measure = LogProbability(torch.tensor(encoded.answer), self.metric == "probability")
        return [measure for _ in chosen]

    def skipped(self, facts: FactSet, why: dict[int, str]) -> dict[str, Any]:
        """What the notes say of the facts that were left out."""
        return {
            "traced": len(facts) - len(why),
            "not_traced": [facts.labels[f] for f in why],
            "why_not_traced": {facts.labels[f]: reason for f, reason in why.items()},
            "skipped": dict(Counter(why.values())),
        }


def _noised(
    own: Float[Tensor, "subject d_model"], spread: Float[Tensor, ""], samples: int, seed: int
) -> Float[Tensor, "sample subject d_model"]:
    noise = torch.randn(samples, *own.shape, generator=torch.Generator().manual_seed(seed))
    return (own + spread * noise).to(own.dtype)


def _clean_logprobs(model: HookedModel, encoded: Encoded) -> Float[Tensor, "kept vocab"]:
    batch, targets = batch_of([encoded])
    last = Site(model.n_layers - 1, "resid_post")
    state = model.run(batch, read=[last], logits=False).acts[last][0, targets.position]
    return model.decode(state).float().log_softmax(dim=-1)


def _difference(model: HookedModel, facts: FactSet, one: tuple[int, Encoded], stand_in: int | None) -> Measure | None:
    """Against what the stand-in would be right for, else the first distractor that differs in a token."""
    f, encoded = one
    for word in _wrong_answers(facts, f, stand_in):
        try:
            wrong = model.encode([facts.facts[f].model_copy(update={"answer": word})])[0].answer
        except BadInput:  # this word does not stand alone after the prompt; another may
            continue
        found = first_difference(encoded.answer, wrong)
        if found is not None:
            return found
    return None


def _wrong_answers(facts: FactSet, f: int, stand_in: int | None) -> Iterator[str]:
    fact = facts.facts[f]
    if stand_in is not None:
        subject = facts.facts[stand_in].subject
        yield from (other.answer for other in facts if (other.subject, other.relation) == (subject, fact.relation))
    yield from fact.distractors


def subject_embeddings(model: HookedModel, encoded: Sequence[Encoded]) -> list[Float[Tensor, "_ d_model"]]:
    """Clean token embeddings of each fact's subject."""
    rows = [row for batch, _ in chunks(encoded) for row in model.run(batch, read=[EMBED], logits=False).acts[EMBED]]
    return [row[list(one.subject)].cpu() for row, one in zip(rows, encoded, strict=True)]


def replacements(facts: FactSet, encoded: Sequence[Encoded], samples: int, seed: int) -> list[list[int]]:
    """For each fact, up to `samples` facts whose subjects can stand in for its own.

    They have as many tokens and, as far as the facts say, another answer to what is asked; those that are asked the
    same come first, because they stay closest to the text the model knows.
    """
    answers = {(fact.subject, fact.relation, fact.answer) for fact in facts}
    chosen = []
    for f, fact in enumerate(facts):
        order = torch.randperm(len(facts), generator=torch.Generator().manual_seed(seed)).tolist()
        order.sort(key=lambda j: facts.facts[j].relation != fact.relation)
        fitting: dict[str, int] = {}
        for j in order:
            other = facts.facts[j].subject
            alike = (other, fact.relation, fact.answer) in answers  # the fact's own subject is alike too
            if len(encoded[j].subject) == len(encoded[f].subject) and not alike:
                fitting.setdefault(other, j)
        chosen.append(list(fitting.values())[:samples])
    return chosen
