"""Planted models, opened without the checks that other tests make."""

from typing import NamedTuple

import pytest

from workbench.concepts import Concept
from workbench.demo.planted import Planted, plant
from workbench.model import HookedModel


class Known(NamedTuple):
    """A model whose facts are known, place and all."""

    model: HookedModel
    planted: Planted
    concept: Concept


def opened(arch: str) -> Known:
    found = plant(arch, 0)
    return Known(HookedModel(found.model, found.tokenizer, check=False), found, found.concept)


@pytest.fixture(scope="session")
def dense() -> Known:
    return opened("llama")


@pytest.fixture(scope="session")
def mixture() -> Known:
    return opened("olmoe")


@pytest.fixture(params=["dense", "mixture"])
def known(request: pytest.FixtureRequest) -> Known:
    return request.getfixturevalue(request.param)
