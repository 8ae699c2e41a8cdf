"""Probe kinds: what probes of other kinds read, what each of them says fact by fact, and with fewer training subjects.

Source: the set-up of `probes.linear_probes`, beside the MLP of Hewitt & Liang 2019 (`probes.probe_mlp`), the erasure of
Belrose et al. 2023 (`workbench.erasure`) and the confound regression of Snoek et al. 2019 (`probes.probe_surface`); the
probability a probe gives its choice is kept, to be held against its accuracy as Guo et al. 2017 do,
https://arxiv.org/abs/1706.04599. Variant: every kind has the same splits and the same shuffled answers; regressions end
at `tolerance`, ten times that of the claim's own reading, which changes about one choice in fifty.
For pages that show the probes; no claim rests on it.
Read it as: `READINGS` says what each is.
Does not show: that the model uses what a probe finds, and of the MLP not even that the answer is there in the open.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from probes.linear_probes import other_facts
from probes.probe_controls import Split, chance_by_fact, disjoint_splits, fewer_subjects, point, shuffled_labels
from probes.probe_mlp import fit_mlp
from probes.probe_rows import Role, Rows, Say, TrainOne, erased, logits_of, read_rows, right
from probes.probe_surface import Surface, residualised, surface_of
from probes.probe_training import fit
from probes.probe_weights import promoted
from workbench.concepts import Fact, FactSet
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.registry import Method
from workbench.trace import Trace

KINDS = {
    "linear": "a linear probe on the states as they are",
    "residualised": "a linear probe on states without what their wording and length explain",
    "mlp": "a probe with one hidden layer",
    "erased": "a linear probe on states from which LEACE erased the answers of the training facts",
}
"""Every kind of probe."""

READINGS = {
    "": "1 where it chose the true answer",
    " chosen": "the answer it chose: its number in `answers`",
    " sure": "the probability it gave that answer",
    " shuffled": "1 where the same probe, trained on answers permuted within a relation, chose the true one",
}
"""What is kept of a kind, as the end of the reading's name; `N subjects` is a linear probe trained on so few."""

FEWEST, POINTS = 5, 4
"""The learning curve begins with so many subjects, and has at most so many points below all of them."""


class ProbeKinds(Method):
    """Linear probes, residualised and erased ones, an MLP: what each says of every fact, and what it listens to."""

    role: Role = "last"
    """The token read: the prompt's last, or the subject's last."""
    l2: float = Field(default=0.1, gt=0)
    """Weight of the penalty |W|^2 / 2 beside the summed cross-entropy, of every kind."""
    seeds: int = Field(default=3, ge=1)
    """Repetitions: each leaves out another tenth of the training subjects and begins the MLP elsewhere."""
    folds: int = Field(default=5, ge=2)
    """Without training facts: the subjects fall into so many parts, each tested on probes trained on the others."""
    hidden: int = Field(default=32, ge=1)
    """Width of the MLP's hidden layer; wider ones memorise more."""
    steps: int = Field(default=60, ge=1)
    """Steps of Adam of the MLP."""
    tolerance: float = Field(default=1e-4, gt=0)
    """Largest entry of the gradient, a row, at which a regression is done."""
    curve: tuple[int, ...] = ()
    """Numbers of training subjects of the learning curve; none for 5, 10, 20, ... up to half of them."""
    tokens: int = Field(default=10, ge=1)
    """Tokens kept of each weight direction."""

    def look(self, model: HookedModel, facts: FactSet, train: FactSet | None = None) -> Trace:
        """Train as `LinearProbes` does; axes (reading, layer, seed, fact), without facts of untrained relations.

        Raises:
            BadInput: when there is no other subject to train on, or the learning curve asks for less than one.
        """
        about = model.about(facts)
        if any(count < 1 for count in self.curve):
            raise BadInput(f"curve={list(self.curve)}: each point is a number of training subjects, 1 or more")
        others = other_facts(facts, train)
        asked = {fact.relation for fact in others or facts}
        kept = [i for i, fact in enumerate(facts) if fact.relation in asked]
        tested = [facts.facts[i] for i in kept]
        rows, skipped = read_rows(model, [*tested, *others], (self.role,))
        bench = Bench(rows, surface_of(model, [*tested, *others]), len(tested), self)
        rounds = [bench.round(seed) for seed in range(self.seeds)]
        names = tuple(rounds[0])
        values = np.stack([np.stack([one[name].numpy() for one in rounds], axis=1) for name in names])
        labels = {
            "reading": names,
            "layer": tuple(model.stream),
            "seed": tuple(map(str, range(self.seeds))),
            "fact": tuple(facts.labels[i] for i in kept),
        }
        notes = {
            **about,
            "subjects": [facts.subjects[i] for i in kept],
            "options": self.spec(),
            "train": train.name if train else f"the other subjects of {facts.name}",
            "train_digest": train.digest if train else None,
            "wordings_without_subject": skipped,
            "not_asked_in_training": len(facts) - len(kept),
            **bench.notes(model, tested, others),
            "axes": {"reading": READINGS, "kinds": KINDS},
        }
        return Trace("probe_kinds", values, tuple(labels), "see reading", labels, notes)


@dataclass(frozen=True)
class Bench:
    """Rows that were read, and what probes made of them."""

    rows: Rows
    """The first `n` facts are tested."""
    surface: Surface
    """What can be seen of each row without a model."""
    n: int
    """Tested facts."""
    options: ProbeKinds
    """How probes are trained."""
    unfinished: list[int] = field(default_factory=list)
    """Collects the trainings that did not come to rest."""
    weights: list[Tensor] = field(default_factory=list)
    """Holds the weights (layer, d_model, class) of the first regression: the linear probe of the first repetition."""

    def round(self, seed: int) -> dict[str, Float[Tensor, "layer n"]]:
        """One repetition: every reading by name."""
        generator = torch.Generator().manual_seed(seed)
        splits = disjoint_splits(self.rows, self.n, self.options.folds, generator)
        shuffled = shuffled_labels(self.rows, generator)
        found: dict[str, Tensor] = {}
        for kind in KINDS:
            parts = [self._told(kind, split, shuffled, generator) for split in splits]
            for name in parts[0]:
                found[kind + name] = torch.stack([part[name] for part in parts]).nanmean(dim=0)[:, : self.n]
        order = torch.randperm(int(self.rows.subject.max()) + 1, generator=generator)
        for count in self.curve(splits):
            fewer = [(fewer_subjects(self.rows, train, order, count), test) for train, test in splits]
            found[point(count)] = self._right_of(fewer, found["linear"])
        return found

    def curve(self, splits: Sequence[Split]) -> tuple[int, ...]:
        """Numbers of training subjects below all of them."""
        if self.options.curve:
            return self.options.curve
        half = min(self._subjects(train) for train, _ in splits) // 2
        doubled = [FEWEST * 2**i for i in range(max(1, half // FEWEST).bit_length()) if FEWEST * 2**i <= half]
        return tuple(doubled[-POINTS:])

    def _subjects(self, train: Bool[Tensor, " row"]) -> int:
        return len(self.rows.subject[self.rows.fact[train]].unique())

    def _right_of(self, splits: Sequence[Split], whole: Float[Tensor, "layer n"]) -> Float[Tensor, "layer n"]:
        """Over the facts that all subjects can teach; an answer that so few do not show is a miss."""
        parts = [self._right(self.rows, split, self.rows.label, self.linear) for split in splits]
        values = torch.stack(parts).nanmean(dim=0)[:, : self.n]
        unseen = values.isnan() & ~whole.isnan() & (~values.isnan()).any()
        return values.masked_fill(unseen, 0.0)

    def _right(
        self, rows: Rows, split: Split, learn: Int[Tensor, " fact"], how: TrainOne
    ) -> Float[Tensor, "layer fact"]:
        train, test = split
        if not train.any():
            return torch.full((len(rows.states), len(rows.label)), torch.nan)
        return right(rows, test, logits_of(rows, train, test, learn, how), rows.label)

    def _told(
        self, kind: str, split: Split, shuffled: Int[Tensor, " fact"], generator: torch.Generator
    ) -> dict[str, Float[Tensor, "layer fact"]]:
        """What one kind of probe says after training on one split, by the ends of `READINGS`."""
        (train, test), rows = split, self.rows
        how = self._mlp(generator) if kind == "mlp" else self.linear
        if kind == "residualised":
            rows = residualised(rows, train, self.surface)
        if kind == "erased":
            rows = erased(rows, train, rows.label)
        logits = logits_of(rows, train, test, rows.label, how)
        chosen, sure = _choice(rows, test, logits)
        found = {"": right(rows, test, logits, rows.label), " chosen": chosen, " sure": sure}
        if kind != "erased":  # a floor itself
            found[" shuffled"] = self._right(rows, split, shuffled, how)
        return found

    def linear(self, states: Tensor, label: Tensor, choices: Tensor) -> Say:
        """A multinomial regression."""
        weight, bias, unfinished = fit(states, label, choices, self.options.l2, tolerance=self.options.tolerance)
        self.unfinished.append(unfinished)
        if not self.weights:
            self.weights.append(weight)
        return lambda read: read @ weight + bias[:, None]

    def _mlp(self, generator: torch.Generator) -> TrainOne:
        options = self.options
        return lambda states, label, choices: fit_mlp(
            states, label, choices, options.l2, options.hidden, options.steps, generator
        )

    def notes(self, model: HookedModel, tested: Sequence[Fact], others: Sequence[Fact]) -> dict[str, Any]:
        """What the numbers are of, and what the first repetition's probes listen to."""
        rows = self.rows
        splits = disjoint_splits(rows, self.n, self.options.folds, torch.Generator().manual_seed(0))
        train, facts = splits[0][0], [*tested, *others]
        answers = dict.fromkeys((fact.relation, fact.answer) for fact in facts)
        chance = chance_by_fact(rows, splits)[0, : self.n]
        truths = {int(rows.label[i]): fact for i, fact in reversed(list(enumerate(tested)))}
        return {
            "answers": [answer for _, answer in answers],
            "answer_relations": [relation for relation, _ in answers],
            "truth": rows.label[: self.n].tolist(),
            "training_subjects": self._subjects(train),
            "curve": list(self.curve(splits)),
            "n_train": int(train.sum()),
            "chance": None if chance.isnan().all() else float(chance.nanmean()),
            "trainings_not_at_rest": sum(self.unfinished),
            **promoted(model, rows, train, self.weights[0], truths, self.options.tokens),
        }


def _choice(
    rows: Rows, test: Bool[Tensor, " row"], logits: Float[Tensor, "layer test class"]
) -> tuple[Float[Tensor, "layer fact"], Float[Tensor, "layer fact"]]:
    """The answer chosen for each tested fact and its probability; NaN where there was no choice."""
    chosen, sure = torch.full((2, len(rows.states), len(rows.label)), torch.nan)
    fact, several = rows.fact[test], (logits[0] > -torch.inf).sum(dim=1) > 1
    likeliest = logits.softmax(dim=-1).max(dim=-1)
    chosen[:, fact] = likeliest.indices.float().where(several, torch.nan)
    sure[:, fact] = likeliest.values.where(several, torch.nan)
    return chosen, sure
