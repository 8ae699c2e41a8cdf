"""Linear probes: can a linear reader find the answer in a layer, though the model may no longer say it?

Source: probing for unlearned facts as in Guo et al. 2024 (mechanistic unlearning, https://arxiv.org/abs/2410.12949):
a multinomial L2 logistic regression a layer on the residual stream, trained on other facts and tested on the
forgotten ones; control tasks after Hewitt & Liang 2019, https://arxiv.org/abs/1909.03368. Variant: one regression a
relation (the choice is among the relation's answers seen in training), no subject in both training and test.
Read it as: accuracy above the shuffled-label floor, and above the same reading on never-taught facts. A fact whose
answer was not seen in training is NaN, not wrong; the notes count them. Selectivity (task minus control task, subjects
shared and split by prompt) near 0 means that a probe this size could memorise every subject; the accuracy itself is on
subjects it never saw, where memorising does not help. With few subjects, train on the near facts.
Does not show: that the model uses what the probe finds (confirm by patching or relearning), nor that nothing is there
when it finds nothing: it needs enough other subjects with the same answers.
"""

from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from probes.probe_controls import CONTROLS, Round, disjoint_splits, interval, learning_curve, plain
from probes.probe_rows import Role, Rows, accuracy, read_rows
from probes.probe_training import Reader
from workbench.concepts import Fact, FactSet
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.registry import Method
from workbench.trace import Trace

__all__ = ["LinearProbes", "Rows", "accuracy"]


class LinearProbes(Method):
    """Accuracy of a linear reader of the answer, layer by layer, on subjects it was not trained on."""

    role: Literal["last", "last_subject", "both"] = "last"
    """The token read: the prompt's last, the subject's last, or both (then an axis `role` says which)."""
    reader: Reader = "multinomial"
    """One choice among the answers, or a yes-or-no for each of them, the surest yes winning."""
    l2: float = Field(default=0.1, gt=0)
    """Weight of the penalty |W|^2 / 2 beside the summed cross-entropy (scikit-learn's 1 / C)."""
    seeds: int = Field(default=3, ge=1)
    """Repetitions: each draws other folds, or leaves out another tenth of the training subjects, and other controls."""
    folds: int = Field(default=5, ge=2)
    """Without training facts: the subjects fall into so many parts, each tested on probes trained on the others."""
    erase: bool = False
    """Train once more on states from which LEACE erased the answers: the erased floor, in the notes."""
    curve: tuple[int, ...] = ()
    """Numbers of training subjects to train with besides: the learning curve, in the notes."""
    keep: Literal["task", "all"] = "task"
    """Numbers of the task only, or of every control too, fact by fact (then an axis `reading` says which)."""

    def look(self, model: HookedModel, facts: FactSet, train: FactSet | None = None) -> Trace:
        """Train on the wordings of `train` (without the subjects of `facts`), or across the subjects of `facts`.

        Raises:
            BadInput: when there is no other subject to train on, or the learning curve asks for less than one.
        """
        about = model.about(facts)
        if any(count < 1 for count in self.curve):
            raise BadInput(f"curve={list(self.curve)}: each point is a number of training subjects, 1 or more")
        others = other_facts(facts, train)
        rows, skipped = read_rows(model, [*facts, *others], self._roles)
        rounds = [self._round(rows, len(facts), seed) for seed in range(self.seeds)]
        readings = {name: torch.stack([one[0][name] for one in rounds], dim=1) for name in rounds[0][0]}
        unread = readings["task"][0].isnan().all(dim=0)
        trained = rows.fact >= len(facts) if train else torch.ones_like(rows.main)
        controls = {name: plain(values.nanmean(dim=(1, 2))) for name, values in readings.items() if name in CONTROLS}
        notes = {
            "options": self.spec(),
            "train": train.name if train else f"the other subjects of {facts.name}",
            "train_digest": train.digest if train else None,
            "n_train": int(trained.sum()),
            "n_test": int((~unread).sum()),
            "not_seen_in_training": int(unread.sum()),
            "wordings_without_subject": skipped,
            "trainings_not_at_rest": sum(count for _, count in rounds),
            "controls": controls,
            "controls_mean": {name: what for name, what in CONTROLS.items() if name in controls},
            "intervals": {name: interval(values.numpy(), facts.subjects) for name, values in readings.items()},
            "axes": {"layer": "embed is what enters the first block, L3 what leaves block 3"},
        }
        if self.curve:
            notes["learning_curve"] = learning_curve(readings, self.curve)
        return self._trace(readings, tuple(model.stream), facts.labels, about | notes)

    @property
    def _roles(self) -> tuple[Role, ...]:
        return ("last_subject", "last") if self.role == "both" else (self.role,)

    def _round(self, rows: Rows, n: int, seed: int) -> tuple[dict[str, Tensor], int]:
        """One repetition: the task and its controls on the first n facts, and the trainings that did not rest."""
        generator = torch.Generator().manual_seed(seed)
        splits = disjoint_splits(rows, n, self.folds, generator)
        one = Round(rows, n, splits, generator, self.l2, self.reader, [])
        return one.readings(self.erase, self.curve), sum(one.unfinished)

    def _trace(
        self, readings: dict[str, Tensor], layers: tuple[str, ...], facts: tuple[str, ...], notes: dict[str, Any]
    ) -> Trace:
        """The readings that are kept, with an axis for each thing there are several of."""
        kept = readings if self.keep == "all" else {"task": readings["task"]}
        places = len(self._roles) * len(layers)
        values = np.stack([v.expand(places, *v.shape[1:]).numpy() for v in kept.values()])
        values = values.reshape(len(kept), len(self._roles), len(layers), self.seeds, len(facts))
        labels = {
            "reading": tuple(kept),
            "role": self._roles,
            "layer": layers,
            "seed": tuple(str(seed) for seed in range(self.seeds)),
            "fact": facts,
        }
        dropped = [
            name for name, there in (("reading", self.keep == "all"), ("role", self.role == "both")) if not there
        ]
        values = values.squeeze(tuple(list(labels).index(name) for name in dropped))
        labels = {name: entries for name, entries in labels.items() if name not in dropped}
        return Trace("linear_probes", values, tuple(labels), "share of facts", labels, notes)


def other_facts(facts: FactSet, train: FactSet | None) -> list[Fact]:
    """The training facts about other subjects, as far as they ask what the tested facts ask; none without `train`.

    Raises:
        BadInput: when there is no other subject to train on.
    """
    if train is None:
        if len(set(facts.subjects)) < 2:
            raise BadInput(
                f"{facts.name!r} has one subject only, so no probe can be trained on others; give train=, "
                "for instance the near facts"
            )
        return []
    asked = {fact.relation for fact in facts}
    others = [fact for fact in train if fact.cluster not in set(facts.subjects) and fact.relation in asked]
    if not others:
        raise BadInput(
            f"{train.name!r} asks about no other subject what {facts.name!r} asks, so there is nothing to "
            "train a probe on; give facts of the same relations about others"
        )
    return others
