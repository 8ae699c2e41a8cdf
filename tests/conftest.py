"""What all tests share: one thread, no network, a cache of their own, and models in which the truth is known."""

import json
import os
from pathlib import Path

import pytest

# Before anything imports torch or transformers: tiny models are 10 to 30 times slower on two threads than on one.
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from workbench.concepts import Concept  # noqa: E402

SETS = ("forget", "near", "far", "retain", "never_taught")


def as_file(concept: Concept) -> dict[str, object]:
    """A concept in the form that a file of one's own facts has."""
    facts = {name: [fact.model_dump(mode="json") for fact in getattr(concept, name)] for name in SETS}
    return {**facts, "text": list(concept.text), "jailbreaks": list(concept.jailbreaks)}


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory):
    """Nothing is read from or left in the user's cache."""
    before = os.environ.get("WORKBENCH_CACHE_DIR")
    os.environ["WORKBENCH_CACHE_DIR"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["WORKBENCH_CACHE_DIR"]
    else:
        os.environ["WORKBENCH_CACHE_DIR"] = before


@pytest.fixture(scope="session")
def planted():
    """A dense model with facts written by hand, and their true sites."""
    from workbench.demo.planted import plant

    return plant("llama", 0)


@pytest.fixture(scope="session")
def planted_folder(planted, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The planted model as an ordinary checkpoint."""
    return planted.save(tmp_path_factory.mktemp("models") / "planted")


@pytest.fixture(scope="session")
def ablated_folder(planted, planted_folder: Path) -> Path:
    """The planted model without the neurons that hold the forget facts."""
    from interventions.concept_ablation import ConceptAblation
    from workbench.checkpoint import Checkpoint

    out = planted_folder.parent / "ablated"
    with Checkpoint(planted_folder).open() as model:
        where = planted.sites_of(planted.concept.forget.facts)
        ConceptAblation(mode="zero").fit(model, planted.concept, where).write(model, out)
    return out


@pytest.fixture(scope="session")
def concept_file(planted, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The planted concept as a file of one's own facts."""
    path = tmp_path_factory.mktemp("concepts") / "planted.json"
    path.write_text(json.dumps(as_file(planted.concept)))
    return path
