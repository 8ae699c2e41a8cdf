"""Unlearning depth: at which layers can the base model still read the answer from another model's states?

Source: Lee et al. 2026, https://arxiv.org/abs/2605.24614 (UDS). The states at the positions that predict the answer's
tokens are taken from a donor and put into the base model, one layer at a time; what is recorded is the drop of the
answer's log-probability. Stage 1 takes them from a retrained reference: layers where the drop exceeds a threshold carry
the fact. Stage 2 takes them from the audited model: the share of the first drop that is seen again, between 0 and 1, is
erased at that layer. The score is the mean share, layers weighted by their first drop. Variant: as the paper, but the
last layer is patched with its own output; the published script puts in the state after the final norm, which the base
then normalises a second time (`published`). Without a reference, stage 1 takes the states of the base itself reading
of another subject, to the same answer: what a model says that knows the kind of thing and not this one.
Read it as: 0 is intact, 1 is like the reference; a small drop means that the donor's state at that layer still holds
the answer in the base's terms. Facts that no layer carries have no score and are counted in the notes.
Does not show: knowledge stored in a form the base model would not read. A stand-in subject can erase more than a
retrained reference, so scores against the two are not to be compared.
"""

from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from workbench.concepts import Fact, FactSet
from workbench.errors import BadInput
from workbench.hooks import put
from workbench.knowledge_layers import carries, erased
from workbench.model import HookedModel
from workbench.registry import Method
from workbench.scoring import chunks, score, score_batch
from workbench.sites import Site
from workbench.tokens import Encoded
from workbench.trace import Trace


class States(Method):
    """Residual states at the positions that predict the answers."""

    published: bool = False
    """Take the last layer's state after the final norm, as the published script does."""
    corrupted: bool = False
    """Let another fact's subject stand in each prompt: the states of a model that cannot know the answer."""

    @torch.no_grad()
    def look(self, model: HookedModel, facts: FactSet) -> Trace:
        """Axes (layer, token, d_model), one token entry for every answer token of every fact.

        With `corrupted`, a fact for which no other subject can stand is NaN and named in the notes.
        """
        sites = [Site(layer, "resid_post") for layer in range(model.n_layers)]
        own = model.encode(facts.facts)
        read, unread = self._read(model, facts, own)
        parts, owners = [], [row for row, e in enumerate(own) for _ in e.answer]
        for batch, targets in chunks(read):
            acts = model.run(batch, read=sites, logits=False).acts
            states = [acts[site][targets.row, targets.position] for site in sites]
            if self.published:
                states[-1] = model.decoder.norm(states[-1])
            parts.append(torch.stack(states).float().cpu())
        values = torch.cat(parts, dim=1).numpy()
        values[:, np.isin(owners, unread)] = np.nan
        labels = {
            "layer": tuple(str(s) for s in sites),
            "token": tuple(f"{i}@{o}" for i, o in enumerate(owners)),
            "d_model": tuple(map(str, range(values.shape[2]))),
        }
        notes = {
            "options": self.spec(),
            "model": model.name,
            "facts_digest": facts.digest,
            "not_read": [facts.labels[f] for f in unread],
        }
        return Trace("states", values, ("layer", "token", "d_model"), "activation", labels, notes)

    def _read(self, model: HookedModel, facts: FactSet, own: list[Encoded]) -> tuple[list[Encoded], list[int]]:
        """What is given to the model, and the facts for which that is not what was asked for."""
        if not self.corrupted:
            return own, []
        others = [stand_in(facts, f) for f in range(len(facts))]
        read = [e if other is None else model.encode([other])[0] for e, other in zip(own, others, strict=True)]
        unread = [f for f, e in enumerate(own) if others[f] is None or read[f].answer != e.answer]
        return [own[f] if f in unread else read[f] for f in range(len(own))], unread


def stand_in(facts: FactSet, number: int) -> Fact | None:
    """A fact with another fact's subject in its prompt; one that is asked the same and has another answer comes first.

    None when every other subject has this answer too, or there is no other.
    """
    fact = facts.facts[number]
    answers = {(other.subject, other.relation, other.answer) for other in facts}
    fitting = [f for f in facts if (f.subject, fact.relation, fact.answer) not in answers and f.subject != fact.subject]
    if not fitting:
        return None
    alike = [other for other in fitting if other.relation == fact.relation] or fitting
    subject = alike[number % len(alike)].subject
    return Fact(
        subject=subject,
        prompt=fact.prompt.replace(fact.subject, subject),
        answer=fact.answer,
        relation=fact.relation,
    )


class DepthScore(Method):
    """Drop of the answers' log-probability when a donor's states are put into this model, and the depth score."""

    donor_from: ClassVar[Literal["against", "checkpoint"]] = "checkpoint"

    published: bool = False
    """Patch the last layer with the donor's state after the final norm: the published script's slip."""
    threshold: float = Field(default=0.05, ge=0)
    """Nats an answer token that the first stage must drop by for a layer to count as carrying the fact."""
    value: Literal["drop", "erased", "score"] = "drop"
    """What the trace holds: the second stage's drop of the whole answer, in nats; the share of the first drop, NaN
    where a layer does not carry the fact; or the score a fact. The notes hold the rest."""
    first_stage: Literal["corrupted", "none"] = "corrupted"
    """What the first stage takes when no `baseline` is given: states of this model reading of another subject; or
    nothing, and then there is no score. It costs as much as the second stage."""

    def donor_reading(self) -> States:
        """The states of the audited model."""
        return States(published=self.published)

    @torch.no_grad()
    def look(self, model: HookedModel, facts: FactSet, donor: Trace, baseline: Trace | None = None) -> Trace:
        """Axes (layer, fact); with `value="score"` (fact).

        Args:
            model: the base, which must know the facts.
            facts: what it knows.
            donor: what `States` read from the audited model on the same facts.
            baseline: the first stage, taken before: this probe's `drop` with the states of a retrained reference.

        Raises:
            BadInput: when the donor's states, or the baseline, are of other facts, tokens or widths.
        """
        about = model.about(facts)
        self._require_fit(model, facts, donor)
        encoded = model.encode(facts.facts)
        intact = score(model, facts.facts).logprob
        second = self._drops(model, encoded, intact, donor)
        first, source = self._first(model, facts, intact, baseline)
        tokens = np.array([len(e.answer) for e in encoded])
        scores, shares = depth(first, second, tokens, self.threshold)
        known = np.isfinite(scores)
        labels = {"layer": donor.labels["layer"], "fact": facts.labels}
        notes = {
            **about,
            "options": self.spec(),
            "donor": donor.notes["model"],
            "answer_tokens": tokens.tolist(),
            "intact_logprob": intact.tolist(),
            "first_stage": source,
            "first_drop": _words(first),
            "score": float(scores[known].mean()) if known.any() else None,
            "scores": _words(scores),
            "not_scored": int((~known).sum()),
            "why_not_scored": self._why(source, first, scores),
        }
        if self.value == "score":
            return Trace("depth_score", scores, ("fact",), "share of depth", {"fact": facts.labels}, notes)
        values, units = (second, "nats") if self.value == "drop" else (shares, "share of the first drop")
        return Trace("depth_score", values, ("layer", "fact"), units, labels, notes)

    def _first(
        self, model: HookedModel, facts: FactSet, intact: Float[Tensor, " fact"], baseline: Trace | None
    ) -> tuple[Float[np.ndarray, "layer fact"], str]:
        """Drops of the first stage, NaN where there are none, and whose states they come from."""
        if baseline is not None:
            self._require_baseline(model, facts, baseline)
            return baseline.values, str(baseline.notes.get("donor"))
        if self.first_stage == "none":
            return np.full((model.n_layers, len(facts)), np.nan), "none"
        states = States(published=self.published, corrupted=True).look(model, facts)
        return self._drops(model, model.encode(facts.facts), intact, states), "corrupted"

    def _drops(
        self, model: HookedModel, encoded: list[Encoded], intact: Float[Tensor, " fact"], donor: Trace
    ) -> Float[np.ndarray, "layer fact"]:
        """How much less likely each answer is with the donor's states at each layer; NaN where it has none."""
        states = torch.from_numpy(donor.values)
        drops = np.empty((model.n_layers, len(encoded)))
        for layer in range(model.n_layers):
            done, rows = 0, []
            for batch, targets in chunks(encoded):
                values = states[layer, done : done + len(targets.token)]
                done += len(targets.token)
                there = {Site(layer, "resid_post"): put(targets.row, targets.position, values.nan_to_num(0.0))}
                logprob = score_batch(model, batch, targets, rewrite=there).logprob.cpu()
                logprob[targets.row[values.isnan().any(dim=1)]] = np.nan
                rows.append(logprob)
            drops[layer] = (intact - torch.cat(rows)).numpy()
        return drops

    def _require_fit(self, model: HookedModel, facts: FactSet, donor: Trace) -> None:
        tokens = sum(len(e.answer) for e in model.encode(facts.facts))
        if donor.notes.get("facts_digest") != facts.digest or donor.values.shape != (
            model.n_layers,
            tokens,
            model.d_model,
        ):
            raise BadInput(
                f"The donor states {donor.values.shape} of {donor.notes.get('model')} do not fit {model.name} "
                f"({model.n_layers} layers, {tokens} answer tokens, width {model.d_model}): both models need "
                "the same architecture, tokenizer and facts"
            )
        self._require_same_last(donor, "donor states")

    def _require_baseline(self, model: HookedModel, facts: FactSet, baseline: Trace) -> None:
        told = baseline.notes
        fits = baseline.axes == ("layer", "fact") and baseline.units == "nats" and len(baseline.labels["layer"])
        same = (told.get("facts_digest"), told.get("identity")) == (facts.digest, model.identity)
        if baseline.name != "depth_score" or not fits or not same or baseline.values.shape[0] != model.n_layers:
            raise BadInput(
                f"The baseline is a {baseline.name!r} trace of {told.get('model')} on {told.get('facts')}; the first "
                f"stage must be depth_score's `drop` of {model.name} itself on the same facts ({facts.name}). Take it "
                "with DepthScore().look(base, facts, States().look(reference, facts))"
            )
        self._require_same_last(baseline, "baseline")

    def _require_same_last(self, trace: Trace, what: str) -> None:
        theirs = bool(dict(trace.notes.get("options", {})).get("published", False))
        if theirs != self.published:
            raise BadInput(
                f"The {what} were taken with published={theirs}, this is published={self.published}: the last "
                "layer's states would not be of one kind. Take both the same way"
            )

    def _why(
        self, source: str, first: Float[np.ndarray, "layer fact"], scores: Float[np.ndarray, " fact"]
    ) -> str | None:
        """Why some facts have no score."""
        if np.isfinite(scores).all():
            return None
        if source == "none":
            return "no first stage was taken: give a baseline, or first_stage='corrupted'"
        lost = int(np.isnan(first).all(axis=0).sum())
        flat = int(np.isnan(scores).sum()) - lost
        return "; ".join(
            said
            for count, said in (
                (lost, f"{lost} have no other subject that could stand in"),
                (flat, f"{flat} drop by no more than {self.threshold} nats a token at any layer in the first stage"),
            )
            if count
        )


def depth(
    first: Float[np.ndarray, "layer fact"],
    second: Float[np.ndarray, "layer fact"],
    tokens: Float[np.ndarray, " fact"] | np.ndarray,
    threshold: float,
) -> tuple[Float[np.ndarray, " fact"], Float[np.ndarray, "layer fact"]]:
    """The score of every fact, and the share erased at every layer.

    Args:
        first: drops with the reference's states, nats an answer.
        second: drops with the audited model's states.
        tokens: how many tokens each answer has; the threshold is a token's.
        threshold: what a layer that carries the fact drops by at least.

    Returns:
        Scores, NaN for a fact that no layer carries; shares, NaN where a layer does not carry it.
    """
    there = carries(first, tokens, threshold)
    share = erased(first, second, there)
    weight = np.where(there, first, 0.0)
    total = weight.sum(axis=0)
    weighted = (weight * np.where(there, share, 0.0)).sum(axis=0)
    return np.divide(weighted, total, out=np.full_like(total, np.nan), where=total > 0), share


def _words(values: np.ndarray) -> list[object]:
    """Nested lists with None for what was not measured."""
    return [_words(v) if isinstance(v, np.ndarray) else None if np.isnan(v) else float(v) for v in values]
