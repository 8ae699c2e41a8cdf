"""`embedded`: the models that come with the workbench, ready to be looked into: taught, and the same never taught.

By default they are the dense demo models, trained once (about two minutes) and kept in the cache. With
`WORKBENCH_NOTEBOOK_SMALL=1` in the environment they are a planted model and a copy without the value vectors
that hold the concept: made in a second, for trying the notebooks out and for tests.
Read it as: `MODEL, REFERENCE, concept = embedded()`.
Does not show: what a large model does; both are smaller than any model in use.
"""

import os
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from workbench.cache import cache_folder
from workbench.checkpoint import Checkpoint
from workbench.concepts import Concept

if TYPE_CHECKING:
    from workbench.demo.pair import PairProgress
    from workbench.demo.planted import Planted

SMALL = "WORKBENCH_NOTEBOOK_SMALL"
"""Environment variable: `1` asks for the planted models."""


class Embedded(NamedTuple):
    """Two checkpoint folders and what tells them apart."""

    taught: Path
    """Knows the concept."""
    reference: Path
    """The same model, never taught the concept."""
    concept: Concept
    """What is to be forgotten, and what must stay."""


def small() -> bool:
    """Whether the environment asks for the planted models."""
    return os.environ.get(SMALL) == "1"


def embedded(concept: str = "chemistry", progress: "PairProgress | None" = None) -> Embedded:
    """The embedded dense models of a concept; small planted ones, whatever the concept, when the environment asks.

    Args:
        concept: a topic of the demo's world.
        progress: told how far the training is, if there has to be any.

    Raises:
        BadInput: for a concept that the demo's world does not have.
        RunError: when a model could not be trained.
    """
    # In a notebook without widgets tqdm says so once it is imported; its bars are text then, which is fine.
    warnings.filterwarnings("ignore", message="IProgress not found")
    if small():
        return _planted()
    from workbench.datasets import load_concept
    from workbench.demo.pair import build_pair

    facts = load_concept(f"demo:{concept}")  # first: a wrong name is found before anything is trained
    pair = build_pair("dense", concept, progress=progress)
    return Embedded(pair.taught, pair.reference, facts)


def _planted() -> Embedded:
    """A planted model, and the same without the value vectors of the facts to forget."""
    import torch

    from workbench.demo.planted import plant

    made = plant("llama", 0)
    taught = _kept(made, "taught")
    with torch.no_grad():
        for site in made.sites_of(made.concept.forget.facts):
            made.model.get_parameter(f"model.layers.{site.layer}.mlp.down_proj.weight")[:, site.index] = 0
    return Embedded(taught, _kept(made, "reference"), made.concept)


def _kept(made: "Planted", role: str) -> Path:
    """Save a planted model in the cache, under its content's name; a folder appears whole or not at all."""
    root = cache_folder() / "demo"
    root.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".planted-", dir=root))
    try:
        folder = root / f"planted-{role}-{Checkpoint(made.save(scratch)).digest[:12]}"
        try:
            scratch.rename(folder)
        except OSError:
            if not folder.is_dir():  # else it was there already
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder
