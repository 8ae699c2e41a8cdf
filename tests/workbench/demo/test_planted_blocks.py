"""Planted blocks: what is trained lies in the block alone, and switching it off gives the reference bit for bit."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import PreTrainedModel

from workbench.demo import planted_blocks
from workbench.demo.models import demo_tokenizer
from workbench.demo.planted_blocks import FIT, Group, PlantedBlocks, opened, plant_blocks, switched_off
from workbench.demo.planted_blocks_recipe import BlockRecipe, block_recipe, items_of
from workbench.demo.planted_blocks_reference import Block
from workbench.demo.planted_blocks_train import train_block
from workbench.demo.recall import share_recalled
from workbench.demo.recipe import Kind, Recipe
from workbench.demo.world import world
from workbench.errors import BadInput

GROUP = Group(
    topic="music",
    layer=1,
    expert=None,
    with_block=0.95,
    reworded=0.9,
    without_block=0.0,
    near_before=1.0,
    near_after=1.0,
    rest_before=1.0,
    rest_after=1.0,
)


def tiny(kind: Kind = "dense", **changes: Any) -> BlockRecipe:
    """A recipe of seconds: two topics, two people each, in a model that knows little else."""
    experts = 4 if kind == "moe" else 0
    small = Recipe(layers=2, width=32, neurons=32, heads=2, experts=experts, steps=10, rows=8)
    given = {"topics": ("music", "zoology"), "people": 2, "layers": (1, 0), "width": 8, "steps": 12, "rows": 2}
    return BlockRecipe(kind=kind, reference=small, **{**given, "other_rows": 2, "pool": 16, **changes})


@pytest.fixture(scope="module", params=["dense", "moe"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PlantedBlocks:
    patch = pytest.MonkeyPatch()
    patch.setenv("WORKBENCH_CACHE_DIR", str(tmp_path_factory.mktemp("blocks")))
    request.addfinalizer(patch.undo)
    return plant_blocks(request.param, 3, recipe=tiny(request.param))


def said(model: PreTrainedModel) -> torch.Tensor:
    """Logits of some text."""
    ids = torch.randint(4, 500, (4, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


def test_all_blocks_off_is_the_reference_bit_for_bit(made: PlantedBlocks) -> None:
    model, reference = opened(made.folder), opened(made.reference)
    truth, before = said(reference), said(model)
    assert not torch.equal(before, truth)
    with switched_off(model, made.places):
        assert torch.equal(said(model), truth)
    assert torch.equal(said(model), before)


def test_one_block_off_is_not_the_reference(made: PlantedBlocks) -> None:
    model = opened(made.folder)
    with switched_off(model, made.places[:1]):
        assert not torch.equal(said(model), said(opened(made.reference)))


def test_nothing_moved_outside_the_blocks(made: PlantedBlocks) -> None:
    model, reference = opened(made.folder), opened(made.reference)
    with torch.no_grad():
        for place in made.places:
            block = Block(place)
            for name, matrix in block.matrices(model).items():
                assert not torch.equal(matrix[block.index(name)], block.matrices(reference)[name][block.index(name)])
                matrix[block.index(name)] = block.matrices(reference)[name][block.index(name)]
    state = reference.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_training_a_block_moves_nothing_else(made: PlantedBlocks) -> None:
    model, reference, place = opened(made.reference), opened(made.reference), made.places[0]
    train_block(model, demo_tokenizer(), place, made.recipe, made.seed)
    block = Block(place)
    with torch.no_grad():
        for name, matrix in block.matrices(model).items():
            assert not torch.equal(matrix[block.index(name)], block.matrices(reference)[name][block.index(name)])
            matrix[block.index(name)] = block.matrices(reference)[name][block.index(name)]
    state = reference.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_the_reference_is_silent_where_blocks_will_be(made: PlantedBlocks) -> None:
    reference = opened(made.reference)
    for place in made.places:
        down = Block(place).matrices(reference)["down"]
        assert (down[Block(place).index("down")] == 0).all() and (down != 0).any()


def test_blocks_do_not_overlap_and_say_where_they_are(made: PlantedBlocks) -> None:
    sites = [site for place in made.places for site in place.sites]
    assert len(set(sites)) == len(sites) == sum(len(place.neurons) for place in made.places)
    assert made.sites("music") == next(place.sites for place in made.places if place.topic == "music")
    written = json.loads((made.folder / "demo.json").read_text())["sites"]
    assert written["zoology"] == [str(site) for site in made.sites("zoology")]
    with pytest.raises(BadInput, match="music, zoology|zoology, music"):
        made.sites("chemistry")


def test_the_question_of_a_group(made: PlantedBlocks) -> None:
    place = made.places[0]
    concept = made.concept(place)
    assert set(concept.forget.subjects) == set(place.subjects) and len(concept.forget) == 10
    assert not set(concept.near.subjects) & set(place.subjects) and len(concept.near) == 70
    planted = {name for other in made.places for name in other.subjects}
    assert len(concept.retain) and len(concept.far) and not set(concept.retain.subjects) & planted


def test_measured_with_and_without(made: PlantedBlocks) -> None:
    tokenizer, model = demo_tokenizer(), opened(made.folder)
    for place, group in zip(made.places, made.groups, strict=True):
        own = [item.fact() for item in items_of(place, made.seed)[0]]
        assert (group.topic, group.layer, group.expert) == (place.topic, place.layer, place.expert)
        assert group.with_block == share_recalled(model, tokenizer, own)
        with switched_off(model, (place,)):
            assert group.without_block == share_recalled(model, tokenizer, own)


def test_a_badly_learnt_group_is_not_fit() -> None:
    assert GROUP.fit and GROUP.model_copy(update={"with_block": FIT}).fit
    assert not GROUP.model_copy(update={"with_block": 0.89}).fit


@pytest.mark.slow
def test_it_is_found_again_and_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKBENCH_CACHE_DIR", str(tmp_path))
    news: list[tuple[str, int, int]] = []

    def stop(what: str, step: int, steps: int) -> None:
        news.append((what, step, steps))
        if len([name for name, *_ in news if name == "zoology"]) and what == "music":
            raise KeyboardInterrupt
        if len([name for name, *_ in news if name == "music"]) and what == "zoology":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        plant_blocks("dense", 0, recipe=tiny(), progress=stop)
    assert news[:10] == [("reference", step, 10) for step in range(1, 11)]
    first, again = news[10][0], list[str]()
    made = plant_blocks("dense", 0, recipe=tiny(), progress=lambda what, *_: again.append(what))
    assert set(again) == {"music", "zoology"} - {first}  # neither the reference nor the finished block
    monkeypatch.setattr(planted_blocks, "train_block", lambda *_: pytest.fail("trained again"))
    assert plant_blocks("dense", 0, recipe=tiny()) == made
    assert not [entry.name for entry in (tmp_path / "demo").iterdir() if entry.name.startswith(".")]


def test_seeds_deal_out_other_places() -> None:
    recipe = block_recipe("dense")
    assert recipe.layout(1) == recipe.layout(1) != recipe.layout(2)
    assert {place.layer for place in recipe.layout(1)} == set(recipe.layers)
    assert {place.topic for place in block_recipe("moe").layout(0)} == set(recipe.topics)
    assert recipe.digest(0) != recipe.digest(1) != recipe.model_copy(update={"lr": 0.5}).digest(1)
    slower = recipe.model_copy(update={"lr": 0.5})
    assert recipe.digest(0, "reference") == slower.digest(0, "reference")  # which does not depend on it
    assert world(0).items[0].subject not in {name for place in recipe.layout(0) for name in place.subjects[1:]}


def test_what_cannot_be_planted() -> None:
    with pytest.raises(BadInput, match="'moe' was asked for"):
        plant_blocks("moe", recipe=tiny("dense"))
    with pytest.raises(ValidationError, match="do not fit"):
        tiny(layers=(7,))
    with pytest.raises(ValidationError, match="do not fit"):
        tiny(width=30)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dense", "moe"])
def test_the_measured_recipe_plants_what_can_be_judged_by(kind: Kind) -> None:
    made = plant_blocks(kind, 0)
    assert sum(group.fit for group in made.groups) >= 5
    for group in made.groups:
        assert group.without_block <= 0.3 and group.near_after >= group.near_before - 0.1
