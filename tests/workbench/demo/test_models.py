"""Demo models: kept whole or not at all, checked before use, built side by side, stopped cleanly."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from workbench.demo import models, pair
from workbench.demo.models import Order, build, fulfil, order_of
from workbench.demo.pair import build_pair, fulfil_all
from workbench.demo.recall import CHANCE, Recall, complaints
from workbench.demo.recipe import RECIPES, Recipe
from workbench.errors import BadInput, RunError

GOOD = Recall(taught=1, h1=1, h2=0.97, h3=0.9, utility=1, never_taught=0.09, forget=0.1, perplexity=7)


def tiny(steps: int = 2, least: float = 0.0, **changes: Any) -> Recipe:
    """A recipe that takes a second and teaches nothing."""
    return Recipe(layers=1, width=16, neurons=16, heads=2, steps=steps, rows=2, least_recall=least, **changes)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("WORKBENCH_CACHE_DIR", str(tmp_path))
    return tmp_path / "demo"


def left_in(cache: Path) -> list[str]:
    """Everything in the cache, scratch folders included."""
    return sorted(entry.name for entry in cache.iterdir()) if cache.exists() else []


@pytest.mark.parametrize(
    "kind, changes",
    [("dense", {}), ("moe", {"experts": 4}), ("moe", {"experts": 8, "routing": "topic", "routing_weight": 0.1})],
)
def test_what_is_built_is_an_ordinary_checkpoint(cache: Path, kind: str, changes: dict[str, Any]) -> None:
    folder = fulfil(Order(kind=kind, recipe=tiny(**changes)))
    assert left_in(cache) == [folder.name]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("The city of", return_tensors="pt")["input_ids"]
    assert model(input_ids=ids).logits.isfinite().all() and ids[0, 0] == tokenizer.bos_token_id
    about = json.loads((folder / "demo.json").read_text())
    assert about["world_seed"] == 0 and about["recall"]["h1"] < 0.5 and about["recipe"]["layers"] == 1


def test_the_second_call_finds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    order = Order(recipe=tiny())
    first = fulfil(order)
    monkeypatch.setattr(models, "train", lambda *_, **__: pytest.fail("trained again"))
    assert fulfil(order) == first
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        fulfil(order.model_copy(update={"seed": 1}))


def test_the_same_order_gives_the_same_weights(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = fulfil(Order(recipe=tiny())) / "model.safetensors"
    monkeypatch.setenv("WORKBENCH_CACHE_DIR", str(tmp_path / "elsewhere"))
    again = fulfil(Order(recipe=tiny())) / "model.safetensors"
    assert first != again and first.read_bytes() == again.read_bytes()


def test_a_model_that_knows_too_little_is_not_kept(cache: Path) -> None:
    with pytest.raises(RunError, match="held-out wordings h1 is 0"):
        fulfil(Order(recipe=tiny(least=0.95)))
    assert left_in(cache) == []


def test_what_is_complained_about() -> None:
    assert complaints(GOOD, 0.95, 80) == []
    assert complaints(GOOD.model_copy(update={"forget": 0.0}), 0.95, 80) == []
    for name, value, words in (
        ("h1", 0.94, "h1 is 0.940"),
        ("h2", 0.5, "h2 is 0.500"),
        ("forget", 0.2, "forget facts is 0.200"),
        ("never_taught", 0.3, "never taught facts"),
    ):
        (said,) = complaints(GOOD.model_copy(update={name: value}), 0.95, 80)
        assert words in said
    assert complaints(GOOD.model_copy(update={"forget": 0.2}), 0.95, 20) == []  # 20 facts say less than 80
    assert 0.08 < CHANCE < 0.09


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_nothing_half_written_stays(cache: Path, error: type[BaseException]) -> None:
    def fail(*_: object) -> None:
        raise error

    with pytest.raises(error):
        fulfil(Order(recipe=tiny()), fail)
    assert left_in(cache) == []
    with pytest.raises(error), models._appearing(cache / "model") as scratch:
        (scratch / "model.safetensors").write_text("half")
        fail()
    assert left_in(cache) == []


def test_a_faster_process_wins(cache: Path) -> None:
    with models._appearing(cache / "model") as scratch:
        (scratch / "demo.json").write_text("mine")
        (cache / "model").mkdir()
        (cache / "model" / "demo.json").write_text("theirs")
    assert (cache / "model" / "demo.json").read_text() == "theirs"
    assert left_in(cache) == ["model"]


def test_progress_counts_to_the_end() -> None:
    seen: list[tuple[int, int, float]] = []
    fulfil(Order(recipe=tiny(steps=3)), lambda *news: seen.append(news))
    assert [news[:2] for news in seen] == [(1, 3), (2, 3), (3, 3)]
    assert seen[0][2] > seen[2][2] == 0


def test_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    fulfil(Order(recipe=tiny()))
    assert torch.get_num_threads() == before


def test_folders_tell_models_apart() -> None:
    base = order_of("dense", "reference", "chemistry", 0)
    others = [
        order_of("dense", "taught", "chemistry", 0),
        order_of("dense", "reference", "music", 0),
        order_of("dense", "reference", "chemistry", 1),
        order_of("moe", "reference", "chemistry", 0),
        order_of("moe", "reference", "chemistry", 0, routing="topic"),
        base.model_copy(update={"recipe": base.recipe.model_copy(update={"steps": 7})}),
    ]
    assert len({order.folder for order in (base, *others)}) == 7
    assert order_of("dense", "taught", "music", 0).folder == others[0].folder  # it has read everything


@pytest.mark.parametrize(
    "wanted, said",
    [
        ({"kind": "dens"}, "Did you mean 'dense'"),
        ({"role": "teacher"}, "no role"),
        ({"concept": "chemisty"}, "Did you mean 'chemistry'"),
        ({"routing": "fre"}, "Did you mean 'free'"),
        ({"routing": "topic"}, "dense.*topic.*moe with topic"),
    ],
)
def test_bad_input_is_named(wanted: dict[str, str], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        build(**{"kind": "dense", "role": "taught", **wanted})
    if "role" not in wanted:
        with pytest.raises(BadInput, match=said):
            build_pair(**{"kind": "dense", **wanted})


@pytest.mark.slow
def test_two_at_once(cache: Path) -> None:
    orders = [Order(role=role, recipe=tiny()) for role in ("taught", "reference")]
    seen: dict[str, tuple[int, int]] = {}
    fulfil_all(orders, lambda role, done, total, left: seen.update({role: (done, total)}))
    assert seen == {"taught": (2, 2), "reference": (2, 2)}
    assert left_in(cache) == sorted(order.folder.name for order in orders)


@pytest.mark.slow
def test_when_one_dies_it_is_named_and_the_other_stopped(cache: Path) -> None:
    slow = Order(role="taught", recipe=tiny(steps=1_000_000 // 64))
    bad = Order(role="reference", recipe=tiny(least=0.95))
    with pytest.raises(RunError, match="reference demo model .* status 1: .*held-out wordings"):
        fulfil_all([slow, bad])
    assert left_in(cache) == []


def test_ctrl_c_ends_both(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []
    start = pair._start
    monkeypatch.setattr(pair, "_start", lambda order: started.append(start(order)) or started[-1])

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fulfil_all([Order(role=role, recipe=tiny(steps=20_000)) for role in ("taught", "reference")], stop)
    assert [worker.process.poll() is not None for worker in started] == [True, True]
    assert left_in(cache) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind, routing", RECIPES)
def test_the_real_thing(kind: str, routing: str) -> None:
    made = build_pair(kind, "chemistry", routing=routing)
    for folder in (made.taught, made.reference):
        recalled = json.loads((folder / "demo.json").read_text())["recall"]
        assert min(recalled["taught"], recalled["h1"], recalled["h2"]) >= 0.95
        assert recalled["utility"] >= 0.9 and recalled["perplexity"] < 10
    assert recalled["forget"] < 0.18
