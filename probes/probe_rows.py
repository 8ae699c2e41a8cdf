"""What linear probes are trained and tested on: states of worded facts, and the hits and misses of trained readers.

Source: the set-up of `probes.linear_probes`. Variant: every relation is a regression of its own; its reader chooses
among the answers seen in training.
Read it as: 1 where the reader chose the true answer, 0 where another, NaN where it had no choice that held the truth.
Does not show: what the model itself would say.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probes.probe_training import Reader, fit
from workbench.concepts import Fact
from workbench.erasure import leace
from workbench.model import HookedModel
from workbench.tokens import Encoded, pad

CHUNK = 128
"""Prompts a forward pass."""

Role = Literal["last_subject", "last"]
"""A token of the prompt, by what it is."""


@dataclass(frozen=True)
class Rows:
    """Every wording of every fact as a state of each layer; facts, subjects, relations and answers are numbers."""

    states: Float[Tensor, "layer row d_model"]
    """Residual stream at the probed token; with several tokens, all layers of the first, then of the next."""
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


Say = Callable[[Tensor], Tensor]
"""States (layer, row, d_model) -> logits (layer, row, class)."""

TrainOne = Callable[[Tensor, Tensor, Tensor], Say]
"""States (layer, row, d_model), class of each row, and what each row chooses from (row, class) -> a trained reader."""


class Hits(NamedTuple):
    """What trained readers made of the tested facts."""

    right: Float[Tensor, "layer fact"]
    """1 or 0 for a fact with a test row; NaN elsewhere, and where training left no choice that holds the truth."""
    unfinished: int
    """Trainings that did not come to rest."""


def logits_of(
    rows: Rows,
    train: Bool[Tensor, " row"],
    test: Bool[Tensor, " row"],
    learn: Int[Tensor, " fact"],
    train_one: TrainOne,
) -> Float[Tensor, "layer test class"]:
    """Train on some rows with the labels `learn`; what the readers say in others, -inf for what is no choice there."""
    choices = rows.choices(train, learn)
    mean = rows.states[:, train].mean(dim=1, keepdim=True)
    states = (rows.states - mean) / spread_of(rows, train)
    say = train_one(states[:, train], learn[rows.fact[train]], choices[train])
    return say(states[:, test]).cpu().masked_fill(~choices[test], -torch.inf)


def spread_of(rows: Rows, train: Bool[Tensor, " row"]) -> Float[Tensor, "layer 1 d_model"]:
    """Standard deviation of the training rows, 1 where they do not differ: what states are divided by."""
    spread = rows.states[:, train].std(dim=1, keepdim=True, correction=0)
    return spread.where(spread > 1e-6, 1.0)


def right(
    rows: Rows, test: Bool[Tensor, " row"], logits: Float[Tensor, "layer test class"], truth: Int[Tensor, " fact"]
) -> Float[Tensor, "layer fact"]:
    """1 or 0 for a fact with a test row; NaN elsewhere, and where there was no choice that holds the truth."""
    found = torch.full((len(rows.states), len(rows.label)), torch.nan)
    fact, choices = rows.fact[test], logits[0] > -torch.inf
    readable = choices.gather(1, truth[fact][:, None])[:, 0] & (choices.sum(dim=1) > 1)
    found[:, fact] = (logits.argmax(dim=-1) == truth[fact]).float().where(readable, torch.nan)
    return found


def hits(
    rows: Rows,
    train: Bool[Tensor, " row"],
    test: Bool[Tensor, " row"],
    learn: Int[Tensor, " fact"],
    truth: Int[Tensor, " fact"],
    l2: float,
    reader: Reader = "multinomial",
) -> Hits:
    """Train on some rows with the labels `learn`, test on others against `truth`, in every layer."""
    if not train.any():
        return Hits(torch.full((len(rows.states), len(rows.label)), torch.nan), 0)
    unfinished = 0

    def linear(states: Tensor, label: Tensor, choices: Tensor) -> Say:
        nonlocal unfinished
        weight, bias, unfinished = fit(states, label, choices, l2, reader)
        return lambda read: read @ weight + bias[:, None]

    logits = logits_of(rows, train, test, learn, linear)
    return Hits(right(rows, test, logits, truth), unfinished)


def accuracy(
    rows: Rows,
    train: Bool[Tensor, " row"],
    test: Bool[Tensor, " row"],
    learn: Int[Tensor, " fact"],
    truth: Int[Tensor, " fact"],
    l2: float,
) -> Float[Tensor, "layer fact"]:
    """1 or 0 for every fact with a test row; NaN elsewhere, and where training left no choice that holds the truth."""
    return hits(rows, train, test, learn, truth, l2).right


def erased(rows: Rows, train: Bool[Tensor, " row"], learn: Int[Tensor, " fact"]) -> Rows:
    """The rows without what tells the answers linearly in the training rows, relation by relation (LEACE)."""
    states, relation = rows.states.clone(), rows.relation[rows.fact]
    for asked in relation[train].unique():
        of, own = relation == asked, train & (relation == asked)
        answers = torch.nn.functional.one_hot(learn[rows.fact[own]].unique(return_inverse=True)[1])
        if answers.shape[1] > 1:
            states[:, of] = leace(states[:, own], answers.double())(states[:, of])
    return replace(rows, states=states)


def wordings(facts: Sequence[Fact]) -> list[tuple[int, int, Fact]]:
    """Every wording that names its subject, in the order of the rows: number of the fact and of the wording, and it."""
    return [
        (i, k, fact.model_copy(update={"prompt": prompt}))
        for i, fact in enumerate(facts)
        for k, prompt in enumerate((fact.prompt, *fact.paraphrases))
        if fact.subject in prompt
    ]


@torch.no_grad()
def read_rows(model: HookedModel, facts: Sequence[Fact], roles: Sequence[Role]) -> tuple[Rows, int]:
    """Run every wording once; also counts the wordings left out because they do not name their subject."""
    worded = wordings(facts)
    sites, encoded, states = list(model.stream.values()), model.encode([fact for _, _, fact in worded]), []
    for start in range(0, len(encoded), CHUNK):
        chunk = encoded[start : start + CHUNK]
        acts = model.run(pad([e.ids[: e.answer_start] for e in chunk]), read=sites, logits=False).acts
        at = [[_position(e, role) for e in chunk] for role in roles]
        states.append(torch.stack([acts[site][range(len(chunk)), token].float() for token in at for site in sites]))
    classes = _numbers([(fact.relation, fact.answer) for fact in facts])
    relation = _numbers([fact.relation for fact in facts])
    rows = Rows(
        torch.cat(states, dim=1),
        torch.tensor([i for i, _, _ in worded]),
        torch.tensor([k == 0 for _, k, _ in worded]),
        _numbers([fact.subject for fact in facts]),
        relation,
        classes,
        torch.zeros(int(classes.max()) + 1, dtype=torch.long).scatter(0, classes, relation),
    )
    return rows, sum(1 + len(fact.paraphrases) for fact in facts) - len(worded)


def _position(encoded: Encoded, role: Role) -> int:
    return encoded.answer_start - 1 if role == "last" else encoded.subject[-1]


def _numbers(things: Sequence[object]) -> Int[Tensor, " thing"]:
    """A number for every distinct thing."""
    known = {thing: i for i, thing in enumerate(dict.fromkeys(things))}
    return torch.tensor([known[thing] for thing in things])
