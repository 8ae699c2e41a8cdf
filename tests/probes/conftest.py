"""Planted models, whose true sites are known, and the stored outputs of published code."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from safetensors.torch import load_file
from torch import Tensor

from workbench.checkpoint import Checkpoint
from workbench.concepts import Concept
from workbench.demo.planted import Planted, plant
from workbench.model import HookedModel

GOLDEN = Path(__file__).parents[1] / "golden"


class Known(NamedTuple):
    """A planted model, opened as any checkpoint is."""

    model: HookedModel
    planted: Planted
    concept: Concept


def open_planted(arch: str, folder: Path) -> Known:
    planted = plant(arch, seed=0)
    return Known(Checkpoint(planted.save(folder / arch)).open(), planted, planted.concept)


@pytest.fixture(scope="session")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Known:
    return open_planted("llama", tmp_path_factory.mktemp("planted"))


@pytest.fixture(scope="session")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Known:
    return open_planted("olmoe", tmp_path_factory.mktemp("planted"))


@pytest.fixture(scope="session", params=["dense", "mixture"])
def known(request: pytest.FixtureRequest) -> Known:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def golden() -> dict[str, dict[str, Any]]:
    return {record["id"]: record for record in json.loads((GOLDEN / "probes.json").read_text())["records"]}


@pytest.fixture(scope="session")
def golden_tensors() -> dict[str, Tensor]:
    return load_file(GOLDEN / "probes.safetensors")


@pytest.fixture(scope="session")
def golden_models() -> dict[str, HookedModel]:
    return {folder.name: Checkpoint(folder).open() for folder in (GOLDEN / "models").iterdir()}
