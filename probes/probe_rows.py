"""What linear probes are trained and tested on: states of worded facts, and the hits and misses of trained readers.

Source: the set-up of `probes.linear_probes`. Variant: every relation is a regression of its own; its reader chooses
among the answers seen in training.
Read it as: 1 where the reader chose the true answer, 0 where another, NaN where it had no choice that held the truth.
Does not show: what the model itself would say.
"""

from collections.abc import Sequence
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


class Hits(NamedTuple):
    """What trained readers made of the tested facts."""

    right: Float[Tensor, "layer fact"]
    """1 or 0 for a fact with a test row; NaN elsewhere, and where training left no choice that holds the truth."""
    unfinished: int
    """Trainings that did not come to rest."""


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
    found = torch.full((len(rows.states), len(rows.label)), torch.nan)
    if not train.any():
        return Hits(found, 0)
    choices = rows.choices(train, learn)
    mean = rows.states[:, train].mean(dim=1, keepdim=True)
    spread = rows.states[:, train].std(dim=1, keepdim=True, correction=0)
    states = (rows.states - mean) / spread.where(spread > 1e-6, 1.0)
    weight, bias, unfinished = fit(states[:, train], learn[rows.fact[train]], choices[train], l2, reader)
    logits = (states[:, test] @ weight + bias[:, None]).cpu().masked_fill(~choices[test], -torch.inf)
    fact = rows.fact[test]
    readable = choices[test].gather(1, truth[fact][:, None])[:, 0] & (choices[test].sum(dim=1) > 1)
    found[:, fact] = (logits.argmax(dim=-1) == truth[fact]).float().where(readable, torch.nan)
    return Hits(found, unfinished)


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


@torch.no_grad()
def read_rows(model: HookedModel, facts: Sequence[Fact], roles: Sequence[Role]) -> tuple[Rows, int]:
    """Run every wording once; also counts the wordings left out because they do not name their subject."""
    worded = [
        (i, k, fact.model_copy(update={"prompt": prompt}))
        for i, fact in enumerate(facts)
        for k, prompt in enumerate((fact.prompt, *fact.paraphrases))
        if fact.subject in prompt
    ]
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
