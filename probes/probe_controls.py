"""What stands beside a probe's accuracy: other splits, other labels, erased states, fewer subjects, and intervals.

Source: control tasks and selectivity of Hewitt & Liang 2019, https://arxiv.org/abs/1909.03368; erasure of Belrose et
al. 2023, https://arxiv.org/abs/2306.03819 (`workbench.erasure`). Variant: a control task gives every subject one answer
to each relation, drawn from the relation's own answers as often as they occur; it can only be learnt where subjects
are shared between training and test, so selectivity is computed on that split, with paraphrases for training and the
prompts for the test. Erasure is fitted on the training rows, and probes are trained anew on what is left.
Read it as: `CONTROLS` says what each reading is. Erased states should read as the commonest answer; more would mean
that the erasure failed.
Does not show: that an answer is not there where a floor is reached; a reader that is not linear may find it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probes.probe_rows import Rows, erased, hits
from probes.probe_training import Reader
from workbench.stats import bootstrap

CONTROLS = {
    "shuffled": "trained on answers permuted among the facts of a relation: the floor",
    "majority": "no input: the commonest answer of the training facts",
    "chance": "1 / number of choices",
    "shared_task": "subjects in both parts: trained on paraphrases, tested on the prompts",
    "shared_control": "the same, but every subject has one random answer to each relation",
    "selectivity": "shared_task minus shared_control",
    "erased": "trained on states from which LEACE erased the answers of the training facts",
}
"""What stands beside the accuracy, in the notes: mean accuracy a layer, null where it could not be measured."""

DRAWS = 1000
"""Resamples of an interval in the notes."""

Split = tuple[Bool[Tensor, " row"], Bool[Tensor, " row"]]
"""Rows to train on, rows to test on."""


@dataclass(frozen=True)
class Round:
    """One repetition: how it trains, and on what."""

    rows: Rows
    """Everything that was read; the first `n` facts are tested."""
    n: int
    """Tested facts."""
    splits: Sequence[Split]
    """No subject is in both parts of one."""
    generator: torch.Generator
    """Of the labels and subjects drawn."""
    l2: float
    """Penalty."""
    reader: Reader
    """Kind of probe."""
    unfinished: list[int]
    """Collects the trainings that did not come to rest."""

    def readings(self, erase: bool, curve: Sequence[int]) -> dict[str, Float[Tensor, "_ n"]]:
        """The task and its controls."""
        rows = self.rows
        shuffled, control = shuffled_labels(rows, self.generator), control_labels(rows, self.generator)
        blind = replace(rows, states=torch.zeros_like(rows.states[:1, :, :1]))
        found = {
            "task": self.over_splits(rows, rows.label, self.splits),
            "shuffled": self.over_splits(rows, shuffled, self.splits),
            "majority": self.over_splits(blind, rows.label, self.splits),
            "chance": chance_by_fact(rows, self.splits)[:, : self.n],
        }
        shared = [(~rows.main, rows.main & (rows.fact < self.n))]
        for name, labels in (("shared_task", rows.label), ("shared_control", control)):
            found[name] = self.over_splits(rows, labels, shared, labels)
        found["selectivity"] = found["shared_task"] - found["shared_control"]
        if erase:
            parts = [self.over_splits(erased(rows, s[0], rows.label), rows.label, [s]) for s in self.splits]
            found["erased"] = torch.stack(parts).nanmean(dim=0)
        order = torch.randperm(int(rows.subject.max()) + 1, generator=self.generator)
        for subjects in curve:
            fewer = [(fewer_subjects(rows, train, order, subjects), test) for train, test in self.splits]
            right = self.over_splits(rows, rows.label, fewer)
            unseen = right.isnan() & ~found["task"].isnan() & (~right.isnan()).any()
            found[point(subjects)] = right.masked_fill(unseen, 0.0)  # an answer too few subjects show is a miss
        return found

    def over_splits(
        self,
        rows: Rows,
        learn: Int[Tensor, " fact"],
        splits: Sequence[Split],
        truth: Int[Tensor, " fact"] | None = None,
    ) -> Float[Tensor, "_ n"]:
        """Hits on the tested facts, each in the split that tests it."""
        truth = rows.label if truth is None else truth
        parts = [hits(rows, train, test, learn, truth, self.l2, self.reader) for train, test in splits]
        self.unfinished.extend(part.unfinished for part in parts)
        return torch.stack([part.right for part in parts]).nanmean(dim=0)[:, : self.n]


def point(subjects: int) -> str:
    """Name of the reading with so many training subjects."""
    return f"{subjects} subjects"


def disjoint_splits(rows: Rows, n: int, folds: int, generator: torch.Generator) -> list[Split]:
    """Which rows train and which test; no subject is in both."""
    tested = rows.subject[:n].unique()
    subject, own = rows.subject[rows.fact], rows.main & (rows.fact < n)
    others = rows.subject[n:].unique()
    if not len(others):
        parts = tested[torch.randperm(len(tested), generator=generator)].tensor_split(min(folds, len(tested)))
        return [(~torch.isin(subject, part), own & torch.isin(subject, part)) for part in parts]
    left_out = others[torch.randperm(len(others), generator=generator)[: len(others) // 10]]
    return [(torch.isin(subject, others) & ~torch.isin(subject, left_out), own)]


def interval(values: Float[np.ndarray, "*place seed fact"], subjects: Sequence[str]) -> dict[str, list[Any]]:
    """Mean and 95% interval at every place: subjects are resampled, each fact is its mean over seeds.

    An end is None where fewer than two subjects could be read; `over_seeds` is the spread of the seeds' means.
    """
    places = values.reshape(-1, *values.shape[-2:])
    known = [~np.isnan(place).all(axis=0) for place in places]
    found: dict[str, list[Any]] = {"mean": [], "low": [], "high": [], "over_seeds": []}
    for place, read in zip(places, known, strict=True):
        facts = [name for name, there in zip(subjects, read, strict=True) if there]
        if not facts:
            ends: tuple[Any, ...] = (None, None, None, None)
        else:
            said = bootstrap(np.nanmean(place[:, read], axis=0), facts, draws=DRAWS).estimate()
            several = len(set(facts)) > 1
            spread = float(np.nanmean(place[:, read], axis=1).std(ddof=1)) if len(place) > 1 else None
            ends = (said.mean, said.low if several else None, said.high if several else None, spread)
        for name, end in zip(found, ends, strict=True):
            found[name].append(end)
    return found


def learning_curve(readings: Mapping[str, Tensor], curve: Sequence[int]) -> dict[str, Any]:
    """Accuracy by layer against the number of training subjects, always over the facts that all subjects can teach."""
    cells = [readings[point(subjects)] for subjects in curve]
    return {
        "subjects": list(curve),
        "accuracy": [plain(values.nanmean(dim=(1, 2))) for values in cells],
        "facts_read": [int((~values[0].isnan().all(dim=0)).sum()) for values in cells],
        "reads": "an answer that so few subjects do not show is a miss; null where there are not so many subjects",
    }


def plain(values: Float[Tensor, " n"]) -> list[float | None]:
    """Numbers as JSON has them."""
    return [None if value != value else value for value in values.tolist()]


def fewer_subjects(
    rows: Rows, train: Bool[Tensor, " row"], order: Int[Tensor, " subject"], count: int
) -> Bool[Tensor, " row"]:
    """The training rows about the first so many training subjects; none when there are fewer."""
    subject = rows.subject[rows.fact]
    kept = order[torch.isin(order, subject[train])][:count]
    return train & torch.isin(subject, kept) if len(kept) == count else torch.zeros_like(train)


def chance_by_fact(rows: Rows, splits: Sequence[Split]) -> Float[Tensor, "1 fact"]:
    """1 / number of choices of every tested fact; NaN where there is no choice."""
    chance = torch.full((1, len(rows.label)), torch.nan)
    for train, test in splits:
        choices = rows.choices(train, rows.label)[test].sum(dim=1)
        chance[0, rows.fact[test]] = (1 / choices).where(choices > 1, torch.nan)
    return chance


def shuffled_labels(rows: Rows, generator: torch.Generator) -> Int[Tensor, " fact"]:
    """The answers permuted among the facts of each relation."""
    label = rows.label.clone()
    for relation in rows.relation.unique():
        of = (rows.relation == relation).nonzero()[:, 0]
        label[of] = rows.label[of[torch.randperm(len(of), generator=generator)]]
    return label


def control_labels(rows: Rows, generator: torch.Generator) -> Int[Tensor, " fact"]:
    """For every subject and relation one answer to the relation, drawn as often as the answers occur."""
    _, pair = torch.stack([rows.subject, rows.relation]).unique(dim=1, return_inverse=True)
    label = torch.empty_like(rows.label)
    for one in pair.unique():
        of = pair == one
        answers = rows.label[rows.relation == rows.relation[of][0]]
        label[of] = answers[torch.randint(len(answers), (1,), generator=generator)]
    return label
