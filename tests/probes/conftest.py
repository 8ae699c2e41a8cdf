"""Planted models, whose true sites are known, and the stored outputs of published code."""

import json
from collections.abc import Callable
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


@pytest.fixture(scope="session")
def plant_and_open(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], Known]:
    def opened(arch: str, seed: int) -> Known:
        planted = plant(arch, seed)
        return Known(Checkpoint(planted.save(tmp_path_factory.mktemp("planted"))).open(), planted, planted.concept)

    return opened


@pytest.fixture(scope="session")
def dense(plant_and_open: Callable[[str, int], Known]) -> Known:
    return plant_and_open("llama", 0)


@pytest.fixture(scope="session")
def mixture(plant_and_open: Callable[[str, int], Known]) -> Known:
    return plant_and_open("olmoe", 0)


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
