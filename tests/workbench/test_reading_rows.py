"""What a neuron reads by, on every architecture: it moves that neuron and no other, and nothing else moves it."""

import pytest
import torch

from interventions.gradient.grad_diff import GradDiff
from interventions.gradient.npo import Npo
from tests.zoo import ARCHITECTURES, make, tokenizer
from workbench.demo.planted import plant
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.reading_rows import reading_rows
from workbench.regions import masks_of, region_of
from workbench.scoring import score
from workbench.sites import Site, parse_sites
from workbench.tokens import pad

WORDS = pad([[0, 5, 9, 40, 41, 42, 43, 44], [0, 7, 8, 60, 90, 120]])
LAYER = 1
NORMED = ("bitnet",)
"""A norm stands behind the activation, so every neuron's coefficient depends on all others."""
UNGATED = ("gpt2", "gpt_neox", "phi")


@pytest.fixture(scope="module", params=ARCHITECTURES)
def opened(request: pytest.FixtureRequest) -> tuple[str, HookedModel]:
    return request.param, HookedModel(make(request.param), tokenizer(), name=request.param, check=False)


def neurons(model: HookedModel) -> list[Site]:
    """One of each kind that the layer has: in the MLP or the shared expert, in the first and in the last expert."""
    kinds = [site for site, _ in model.down_projections() if site.layer == LAYER]
    chosen = dict.fromkeys([kinds[0], kinds[-1]])
    return [Site(LAYER, "mlp_act", 3, site.expert) for site in chosen]


def coefficients(model: HookedModel, neuron: Site) -> torch.Tensor:
    """Of all neurons of the MLP or expert, neuron by neuron."""
    with torch.no_grad():
        return model.run(WORDS, read=[neuron.whole], logits=False).acts[neuron.whole].flatten(0, 1).T.clone()


def shaken(model: HookedModel, masks: dict[str, torch.Tensor], neuron: Site) -> torch.Tensor:
    """The coefficients while the entries of some masks are others."""
    before = {name: model.parameter(name).detach().clone() for name in masks}
    draw = torch.Generator().manual_seed(1)
    try:
        with torch.no_grad():
            for name, mask in masks.items():
                noise = torch.randn(mask.shape, generator=draw) * mask
                model.parameter(name).add_(noise)
        return coefficients(model, neuron)
    finally:
        with torch.no_grad():
            for name, value in before.items():
                model.parameter(name).copy_(value)


def marks(model: HookedModel, neuron: Site) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for rows in reading_rows(model, neuron):
        rows.mark(found.setdefault(rows.name, torch.zeros_like(model.parameter(rows.name), dtype=torch.bool)))
    return found


def beside(mine: dict[str, torch.Tensor]) -> str:
    """What the names of the parameters of the same MLP begin with."""
    return next(iter(mine)).rpartition(".")[0].rpartition(".")[0] + "."


def test_it_is_all_that_moves_the_neuron_and_moves_no_other(opened) -> None:
    name, model = opened
    for neuron in neurons(model):
        mine, before = marks(model, neuron), coefficients(model, neuron)
        inside = (
            next(iter(mine)).rpartition(".experts.")[0] + ".experts." if neuron.expert is not None else beside(mine)
        )
        whole = {key: torch.ones_like(model.parameter(key), dtype=torch.bool) for key in model.parameter_names()}
        others = {key: mask & ~mine.get(key, ~mask) for key, mask in whole.items() if key.startswith(inside)}
        assert sum(int(mask.sum()) for mask in mine.values()) >= 32 * (1 if name in UNGATED else 2)
        if name in NORMED:
            continue
        alive = before.abs().sum(1) > 0
        here, elsewhere = shaken(model, mine, neuron), shaken(model, others, neuron)
        changed = (here != before).any(1)
        assert changed[3] and changed.sum() == 1
        assert torch.equal(elsewhere[3], before[3]) and (elsewhere != before).any(1).sum() >= alive.sum() - 1


def test_each_of_gate_and_rest_is_there(opened) -> None:
    """Each of the rows by itself moves the neuron: none of them is somebody else's."""
    name, model = opened
    if name in NORMED:
        pytest.skip("every neuron depends on all")
    for neuron in neurons(model):
        before = coefficients(model, neuron)
        for rows in reading_rows(model, neuron):
            assert rows.of(model.parameter(rows.name)).shape[0] == len(rows.rows) <= 2
            for row in rows.rows:
                mask = torch.zeros_like(model.parameter(rows.name), dtype=torch.bool)
                type(rows)(rows.name, (row,), rows.axis, rows.expert).mark(mask)
                changed = (shaken(model, {rows.name: mask}, neuron) != before).any(1)
                assert changed[3] and changed.sum() == 1


def test_a_training_moves_those_and_what_it_writes_and_not_one_other_bit(opened) -> None:
    """On every architecture a region holds all of both, and the default still the written part alone."""
    _, model = opened
    for neuron in neurons(model):
        written, everything = region_of(model, [neuron]), region_of(model, [neuron], "all")
        read = marks(model, neuron)
        assert set(everything.masks) == {*written.masks, *read}
        assert all(torch.equal(everything.masks[name], mask) for name, mask in {**read, **written.masks}.items())
        assert everything.count(model) == written.count(model) + sum(int(mask.sum()) for mask in read.values())


PLACES = {
    "llama": ["L1.mlp_act[0]", "L1.mlp_act[5]", "L0.mlp_act[7]"],
    "olmoe": ["L1.e2.mlp_act[4]", "L0.e0.mlp_act[1]", "L0.expert[3]"],
    "mixed": ["L1.mlp_act[3]", "L1.attn_out", "L0.mlp_out", "L0.mlp_act[2]"],
}


@pytest.mark.parametrize("mask", ["none", "salun"])
@pytest.mark.parametrize("place", PLACES)
def test_with_weight_decay_too(place: str, mask: str) -> None:
    found = plant("olmoe" if place == "olmoe" else "llama", 0)
    model = HookedModel(found.model, found.tokenizer, check=False)
    where = parse_sites(PLACES[place])
    method = GradDiff(steps=3, lr=1e-2, weight_decay=0.5, neuron_parts="all", mask=mask)
    edit = method.fit(model, found.concept, where)
    region = region_of(model, where, "all")
    allowed = masks_of(model, region.names, region.masks)
    before = {name: model.parameter(name).detach().clone() for name in model.parameter_names()}
    with edit.on(model):
        moved = {name: model.parameter(name).detach() != old for name, old in before.items()}
    changed = {name: entries for name, entries in moved.items() if entries.any()}
    assert set(changed) <= set(allowed)
    assert not any((entries & ~allowed[name]).any() for name, entries in changed.items())
    if mask == "none":
        whole = sum(int(entries.sum()) for entries in allowed.values())
        assert sum(int(entries.sum()) for entries in changed.values()) > 0.9 * whole
    writes = method.model_copy(update={"neuron_parts": "written"}).fit(model, found.concept, where)
    assert writes.digest != edit.digest


def test_with_what_they_read_by_any_neurons_forget() -> None:
    """So forgetting says nothing of the place then: others are made to fire (with what they write alone: over .5)."""
    found = plant("llama", 0)
    model = HookedModel(found.model, found.tokenizer, check=False)
    where = found.sites_of(found.concept.forget.facts)
    others = [Site(1, "mlp_act", i) for i in range(48) if Site(1, "mlp_act", i) not in where][: len(where)]
    for sites in (where, others):
        edit = Npo(steps=40, lr=2e-2, neuron_parts="all").fit(model, found.concept, sites)
        with edit.on(model):
            assert float(score(model, found.concept.forget.facts).probability.mean()) < 0.1
            assert float(score(model, found.concept.near.facts).greedy.double().mean()) > 0.7


def test_what_is_not_understood_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    found = plant("olmoe", 0)
    model = HookedModel(found.model, found.tokenizer, check=False)
    with pytest.raises(BadInput, match="is not a value vector"):
        reading_rows(model, Site(1, "mlp_act", 9999, 2))
    monkeypatch.setattr("workbench.reading_rows._in_expert", lambda *_: iter(()))
    with pytest.raises(BadInput, match="neuron_parts=written"):
        GradDiff(steps=1, neuron_parts="all").fit(model, found.concept, [Site(1, "mlp_act", 3, 2)])
