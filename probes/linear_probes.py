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

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from workbench.concepts import Fact, FactSet
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.registry import Method
from workbench.tokens import pad
from workbench.trace import Trace

CHUNK = 128
"""Prompts a forward pass."""

CONTROLS = {
    "shuffled": "trained on answers permuted among the facts of a relation: the floor",
    "majority": "no input: the commonest answer of the training facts",
    "chance": "1 / number of choices",
    "shared_task": "subjects in both parts: trained on paraphrases, tested on the prompts",
    "shared_control": "the same, but every subject has one random answer to each relation",
    "selectivity": "shared_task minus shared_control",
}
"""What stands beside the accuracy, in the notes: mean accuracy a layer, null where it could not be measured."""


@dataclass(frozen=True)
class Rows:
    """Every wording of every fact as a state of each layer; facts, subjects, relations and answers are numbers."""

    states: Float[Tensor, "layer row d_model"]
    """Residual stream at the probed token."""
    fact: Int[Tensor, " row"]
    """Which fact the row words."""
    main: Bool[Tensor, " row"]
    """Whether it is the fact's own prompt and not a paraphrase."""
    subject: Int[Tensor, " fact"]
    """Who each fact is about."""
    relation: Int[Tensor, " fact"]
    """What each fact asks."""
    label: Int[Tensor, " fact"]
    """Class of each true answer; the same word is two classes in two relations."""
    class_relation: Int[Tensor, " class"]
    """The relation each class answers."""

    def choices(self, train: Bool[Tensor, " row"], learn: Int[Tensor, " fact"]) -> Bool[Tensor, "row class"]:
        """What a probe chooses from in each row: the answers to its relation that were seen in training."""
        seen = torch.zeros(len(self.class_relation), dtype=torch.bool)
        seen[learn[self.fact[train]]] = True
        return (self.relation[self.fact][:, None] == self.class_relation) & seen


class LinearProbes(Method):
    """Accuracy of a linear reader of the answer, layer by layer, on subjects it was not trained on."""

    role: Literal["last", "last_subject"] = "last"
    """The token read: the prompt's last, or the subject's last."""
    l2: float = Field(default=0.1, gt=0)
    """Weight of the penalty |W|^2 / 2 beside the summed cross-entropy (scikit-learn's 1 / C)."""
    seeds: int = Field(default=3, ge=1)
    """Repetitions: each draws other folds, or leaves out another tenth of the training subjects, and other controls."""
    folds: int = Field(default=5, ge=2)
    """Without training facts: the subjects fall into so many parts, each tested on probes trained on the others."""

    def look(self, model: HookedModel, facts: FactSet, train: FactSet | None = None) -> Trace:
        """Train on the wordings of `train` (without the subjects of `facts`), or across the subjects of `facts`.

        Raises:
            BadInput: when there is no other subject to train on.
        """
        about = model.about(facts)
        others = _others(facts, train)
        rows = self._rows(model, [*facts, *others])
        rounds = [self._round(rows, len(facts), seed) for seed in range(self.seeds)]
        readings = {name: torch.stack([one[name] for one in rounds], dim=1) for name in rounds[0]}
        readings["selectivity"] = readings["shared_task"] - readings["shared_control"]
        controls = {name: _plain(values.nanmean(dim=(1, 2))) for name, values in readings.items() if name != "task"}
        task = readings["task"]
        unread = task[0].isnan().all(dim=0)
        trained = rows.fact >= len(facts) if train else torch.ones_like(rows.main)
        labels = {
            "layer": tuple(model.stream),
            "seed": tuple(str(seed) for seed in range(self.seeds)),
            "fact": facts.labels,
        }
        return Trace(
            "linear_probes",
            task.numpy(),
            ("layer", "seed", "fact"),
            "share of facts",
            labels,
            about
            | {
                "options": self.spec(),
                "train": train.name if train else f"the other subjects of {facts.name}",
                "train_digest": train.digest if train else None,
                "n_train": int(trained.sum()),
                "n_test": int((~unread).sum()),
                "not_seen_in_training": int(unread.sum()),
                "controls": controls,
                "controls_mean": CONTROLS,
                "axes": {"layer": "embed is what enters the first block, L3 what leaves block 3"},
            },
        )

    def _round(self, rows: Rows, n: int, seed: int) -> dict[str, Float[Tensor, "_ n"]]:
        """One repetition: the task and its controls on the first n facts."""
        generator = torch.Generator().manual_seed(seed)
        splits = self._splits(rows, n, generator)
        shuffled, control = _shuffled(rows, generator), _control_labels(rows, generator)
        blind = replace(rows, states=torch.zeros_like(rows.states[:1, :, :1]))
        own = rows.main & (rows.fact < n)

        def over_splits(of: Rows, learn: Int[Tensor, " fact"]) -> Float[Tensor, "_ tested"]:
            parts = [accuracy(of, train, test, learn, rows.label, self.l2) for train, test in splits]
            return torch.stack(parts).nanmean(dim=0)[:, :n]

        found = {
            "task": over_splits(rows, rows.label),
            "shuffled": over_splits(rows, shuffled),
            "majority": over_splits(blind, rows.label),
            "chance": _chance(rows, splits)[:, :n],
        }
        for name, labels in (("shared_task", rows.label), ("shared_control", control)):
            found[name] = accuracy(rows, ~rows.main, own, labels, labels, self.l2)[:, :n]
        return found

    def _splits(self, rows: Rows, n: int, generator: torch.Generator) -> list[tuple[Tensor, Tensor]]:
        """Which rows train and which test; no subject is in both."""
        tested = rows.subject[:n].unique()
        subject, own = rows.subject[rows.fact], rows.main & (rows.fact < n)
        others = rows.subject[n:].unique()
        if not len(others):
            parts = tested[torch.randperm(len(tested), generator=generator)].tensor_split(min(self.folds, len(tested)))
            return [(~torch.isin(subject, part), own & torch.isin(subject, part)) for part in parts]
        left_out = others[torch.randperm(len(others), generator=generator)[: len(others) // 10]]
        return [(torch.isin(subject, others) & ~torch.isin(subject, left_out), own)]

    @torch.no_grad()
    def _rows(self, model: HookedModel, facts: Sequence[Fact]) -> Rows:
        """Run every wording once."""
        worded = [
            (i, k, fact.model_copy(update={"prompt": prompt}))
            for i, fact in enumerate(facts)
            for k, prompt in enumerate((fact.prompt, *fact.paraphrases))
            if fact.subject in prompt
        ]
        encoded, states = model.encode([fact for _, _, fact in worded]), []
        for start in range(0, len(encoded), CHUNK):
            chunk = encoded[start : start + CHUNK]
            at = [e.answer_start - 1 if self.role == "last" else e.subject[-1] for e in chunk]
            batch = pad([e.ids[: e.answer_start] for e in chunk])
            acts = model.run(batch, read=list(model.stream.values()), logits=False).acts
            states.append(torch.stack([acts[site][range(len(at)), at].float() for site in model.stream.values()]))
        classes = _numbers([(fact.relation, fact.answer) for fact in facts])
        relation = _numbers([fact.relation for fact in facts])
        class_relation = torch.zeros(int(classes.max()) + 1, dtype=torch.long).scatter(0, classes, relation)
        return Rows(
            torch.cat(states, dim=1),
            torch.tensor([i for i, _, _ in worded]),
            torch.tensor([k == 0 for _, k, _ in worded]),
            _numbers([fact.subject for fact in facts]),
            relation,
            classes,
            class_relation,
        )


def accuracy(
    rows: Rows,
    train: Bool[Tensor, " row"],
    test: Bool[Tensor, " row"],
    learn: Int[Tensor, " fact"],
    truth: Int[Tensor, " fact"],
    l2: float,
) -> Float[Tensor, "layer fact"]:
    """1 or 0 for every fact with a test row; NaN elsewhere, and where training left no choice that holds the truth."""
    found = torch.full((len(rows.states), len(rows.label)), torch.nan)
    if not train.any():
        return found
    choices = rows.choices(train, learn)
    mean = rows.states[:, train].mean(dim=1, keepdim=True)
    spread = rows.states[:, train].std(dim=1, keepdim=True, correction=0)
    states = (rows.states - mean) / spread.where(spread > 1e-6, 1.0)
    weight, bias = fit(states[:, train], learn[rows.fact[train]], choices[train], l2)
    logits = (states[:, test] @ weight + bias[:, None]).cpu().masked_fill(~choices[test], -torch.inf)
    fact = rows.fact[test]
    readable = choices[test].gather(1, truth[fact][:, None])[:, 0] & (choices[test].sum(dim=1) > 1)
    found[:, fact] = (logits.argmax(dim=-1) == truth[fact]).float().where(readable, torch.nan)
    return found


def fit(
    states: Float[Tensor, "layer row d_model"],
    label: Int[Tensor, " row"],
    choices: Bool[Tensor, "row class"],
    l2: float,
) -> tuple[Float[Tensor, "layer d_model class"], Float[Tensor, "layer class"]]:
    """Weights and biases of one multinomial logistic regression a layer (and a relation), all at once.

    Each row's softmax runs over its own choices only, so relations do not compete and each is a regression of its own.
    """
    layers, _, width = states.shape
    weight = torch.zeros(layers, width, choices.shape[1], device=states.device, requires_grad=True)
    bias = torch.zeros(layers, choices.shape[1], device=states.device, requires_grad=True)
    barred = torch.zeros(choices.shape).masked_fill(~choices, -torch.inf).to(states.device)
    labels = label.to(states.device).repeat(layers)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=200, history_size=10, tolerance_grad=0.1, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        logits = states @ weight + bias[:, None] + barred
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels, reduction="sum")
        loss = loss + l2 / 2 * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return weight.detach(), bias.detach()


def _others(facts: FactSet, train: FactSet | None) -> list[Fact]:
    """The training facts about other subjects, as far as they ask what the tested facts ask."""
    if train is None:
        if len(set(facts.subjects)) < 2:
            raise BadInput(
                f"{facts.name!r} has one subject only, so no probe can be trained on others; give train=, "
                "for instance the near facts"
            )
        return []
    asked = {fact.relation for fact in facts}
    others = [fact for fact in train if fact.subject not in set(facts.subjects) and fact.relation in asked]
    if not others:
        raise BadInput(
            f"{train.name!r} asks about no other subject what {facts.name!r} asks, so there is nothing to "
            "train a probe on; give facts of the same relations about others"
        )
    return others


def _chance(rows: Rows, splits: Sequence[tuple[Tensor, Tensor]]) -> Float[Tensor, "1 fact"]:
    """1 / number of choices of every tested fact."""
    chance = torch.full((1, len(rows.label)), torch.nan)
    for train, test in splits:
        choices = rows.choices(train, rows.label)[test].sum(dim=1)
        chance[0, rows.fact[test]] = (1 / choices).where(choices > 1, torch.nan)
    return chance


def _shuffled(rows: Rows, generator: torch.Generator) -> Int[Tensor, " fact"]:
    """The answers permuted among the facts of each relation."""
    label = rows.label.clone()
    for relation in rows.relation.unique():
        of = (rows.relation == relation).nonzero()[:, 0]
        label[of] = rows.label[of[torch.randperm(len(of), generator=generator)]]
    return label


def _control_labels(rows: Rows, generator: torch.Generator) -> Int[Tensor, " fact"]:
    """For every subject and relation one random answer to the relation."""
    _, pair = torch.stack([rows.subject, rows.relation]).unique(dim=1, return_inverse=True)
    label = torch.empty_like(rows.label)
    for one in pair.unique():
        of = pair == one
        answers = (rows.class_relation == rows.relation[of][0]).nonzero()[:, 0]
        label[of] = answers[torch.randint(len(answers), (1,), generator=generator)]
    return label


def _numbers(things: Sequence[object]) -> Int[Tensor, " thing"]:
    """A number for every distinct thing."""
    known = {thing: i for i, thing in enumerate(dict.fromkeys(things))}
    return torch.tensor([known[thing] for thing in things])


def _plain(values: Float[Tensor, " n"]) -> list[float | None]:
    return [None if value != value else value for value in values.tolist()]
