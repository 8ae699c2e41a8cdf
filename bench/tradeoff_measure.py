"""One cell of `bench.tradeoff`: fit a row's method with one seed, then measure what is left and what comes back.

Guards are attacked without the guard, as in the audits: who trains the weights has them. Of what is asked, a fit has
seen the forget facts only; near and far facts are disjoint from the retain facts.
"""

import contextlib
import math
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from audits.attacks.relearn import Relearn
from audits.behaviour.perplexity import Perplexity
from audits.reading_ways import probe_training
from bench.tradeoff_settings import BARE
from bench.unlearning_settings import Setting
from interventions import INTERVENTIONS
from probes.linear_probes import LinearProbes
from workbench.checkpoint import Checkpoint
from workbench.cli.controls import fit
from workbench.cli.places import Place
from workbench.cli.settings import parse_settings, with_options
from workbench.concepts import Concept, Fact
from workbench.demo.pair import Pair
from workbench.edits import Edit, kept
from workbench.model import HookedModel
from workbench.objectives import answer_nll, labelled
from workbench.registry import Method
from workbench.scoring import score
from workbench.store import RunFolder
from workbench.training import TrainingOptions

VERSION = 1
"""Part of every question; raised when what is measured changes."""


class Measures(Method):
    """What is measured of every row, with what budget."""

    relearn: Relearn = Relearn(steps=(40,))
    """Relearning on a share of the forget facts; its seeds are replaced by the row's."""
    benign_steps: int = Field(40, ge=1)
    """Updates of the benign relearning."""
    benign_lr: float = Field(1e-3, gt=0)
    """Its learning rate: three times that of `relearn`, because facts a model knows pull little. On far facts, not on
    the retain facts: those are what a method was trained to leave as they are."""
    benign_batch: int = Field(8, ge=1)
    """Facts an update."""
    probe_seeds: int = Field(1, ge=1)
    """Trainings of the linear probes, in each seed of the row."""


def words_of(setting: Setting, flag: str) -> list[str]:
    """The values that a row gives to one flag of `workbench unlearn`."""
    return [value for word, value in zip(setting.words, setting.words[1:], strict=False) if word == flag]


def method_of(setting: Setting, seed: int) -> Any:
    """The row's method with its options and a seed, where it has one."""
    return with_options(INTERVENTIONS.load(setting.method), parse_settings(words_of(setting, "--set")), seed)


def place_of(setting: Setting, seed: int) -> Place:
    """Where the row's method acts."""
    top, localiser = words_of(setting, "--top"), words_of(setting, "--localise")
    return Place(
        tuple(words_of(setting, "--where")), localiser[0] if localiser else None, int(top[0]) if top else None, seed
    )


def question(setting: Setting, seed: int, checkpoint: Path, concept: Concept, measures: Measures) -> dict[str, Any]:
    """What a cell answers: the same question is not computed twice."""
    acts = setting.method not in BARE
    return {
        "bench": "tradeoff",
        "version": VERSION,
        "checkpoint": Checkpoint(checkpoint).digest,
        "concept": concept.digest,
        "row": setting.slug,
        "method": method_of(setting, seed).spec() if acts else None,
        "where": place_of(setting, seed).spec() if acts else None,
        "seed": seed,
        "measures": measures.spec(),
    }


def checkpoint_of(setting: Setting, pair: Pair) -> Path:
    """The model a row is about, or starts from."""
    return pair.reference if setting.method == "reference" else pair.taught


def cell(setting: Setting, seed: int, checkpoint: Path, concept: Concept, measures: Measures) -> dict[str, Any]:
    """Fit, put on, measure."""
    with Checkpoint(checkpoint).open() as model:
        began = time.monotonic()
        edit = None if setting.method in BARE else _fitted(model, setting, seed, concept)
        seconds = time.monotonic() - began
        with edit.on(model) if edit else contextlib.nullcontext():
            found = measured(model, concept, seed, measures)
    return {**found, "seconds": seconds, "kind": edit.kind if edit else None}


def _fitted(model: HookedModel, setting: Setting, seed: int, concept: Concept) -> Edit:
    with tempfile.TemporaryDirectory() as folder:  # a localiser keeps its reading in a run; here nobody wants it
        where = place_of(setting, seed).find(model, concept, RunFolder(Path(folder), {}), _silent)
        return fit(method_of(setting, seed), model, concept, where)


def _silent(*_: object, **__: object) -> None:
    """Say nothing."""


def measured(model: HookedModel, concept: Concept, seed: int, measures: Measures) -> dict[str, Any]:
    """The columns of one cell, of the model as it is now.

    Args:
        model: unchanged afterwards.
        concept: what to ask.
        seed: of the attacks.
        measures: what is measured.

    Returns:
        Shares of facts, perplexity of plain text, and `probe`: accuracy of linear probes, a number a layer.
    """
    texts = Perplexity().look(model, concept.text).values
    told = {
        "forget": answered(model, concept.forget.facts),
        "paraphrase": answered(model, concept.forget.reworded("paraphrases").facts),
        "near": answered(model, concept.near.facts),
        "far": answered(model, concept.far.facts),
        "perplexity": math.exp(float(texts.mean())),
    }
    with model.bare():
        relearnt = measures.relearn.model_copy(update={"seeds": (seed,)}).look(model, concept.forget)
        told["relearnt"] = float(np.nanmean(relearnt.values[0, -1]))
        told["benign"] = benign(model, concept.far.facts, concept.forget.facts, seed, measures)
    return {**told, "probe": probed(model, concept, measures)}


def answered(model: HookedModel, facts: Sequence[Fact]) -> float:
    """Share of answers that greedy decoding gives."""
    return float(score(model, facts).greedy.double().mean())


def benign(model: HookedModel, facts: Sequence[Fact], asked: Sequence[Fact], seed: int, measures: Measures) -> float:
    """Share of `asked` that is answered after a short training on other facts; the model is unchanged afterwards."""
    options = TrainingOptions(
        steps=measures.benign_steps, lr=measures.benign_lr, batch_size=measures.benign_batch, seed=seed
    )
    with kept(model, model.parameter_names()):
        model.train(model.encode(facts), labelled, answer_nll, options)
        return answered(model, asked)


def probed(model: HookedModel, concept: Concept, measures: Measures) -> dict[str, float]:
    """Layer -> accuracy of linear probes trained on facts about other subjects; what enters the first block first."""
    train = probe_training(concept)
    trace = LinearProbes(seeds=measures.probe_seeds).look(model, concept.forget, train=train)
    means = np.nanmean(trace.values, axis=(1, 2))
    return dict(zip(trace.labels["layer"], map(float, means), strict=True))
