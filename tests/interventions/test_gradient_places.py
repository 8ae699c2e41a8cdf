"""What may move moves, and every other entry keeps its very bits: parts, experts, neurons, heads, and masks on them."""

import pytest
import torch

from interventions.gradient.grad_diff import GradDiff
from interventions.gradient.npo import Npo
from tests.zoo import make, tokenizer
from workbench.demo.planted import plant
from workbench.edits import load_edit
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.regions import masks_of, region_of
from workbench.scoring import score
from workbench.sites import Site, parse_sites

MASKS = ("none", "wagle", "salun", "sure", "fisher")


@pytest.fixture(scope="module")
def dense():
    found = plant("llama", 0)
    return HookedModel(found.model, found.tokenizer, check=False), found


@pytest.fixture(scope="module")
def mixture():
    found = plant("olmoe", 0)
    return HookedModel(found.model, found.tokenizer, check=False), found


def moved(model: HookedModel, edit) -> dict[str, torch.Tensor]:
    """Parameter -> which entries differ in their bits while the edit is on."""
    before = {name: model.parameter(name).detach().clone() for name in model.parameter_names()}
    with edit.on(model):
        pairs = {n: (old.view(torch.int32), model.parameter(n).detach().view(torch.int32)) for n, old in before.items()}
        return {name: old != new for name, (old, new) in pairs.items() if not torch.equal(old, new)}


PLACES = {
    "neurons": ["L1.mlp_act[0]", "L1.mlp_act[5]", "L0.mlp_act[7]"],
    "heads": ["L0.head[1]", "L2.head[3]"],
    "part": ["L1.mlp_out"],
    "mixed": ["L1.mlp_act[3]", "L2.attn_out", "L0.head[0]"],
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("place", PLACES)
def test_only_the_entries_named_and_masked_move(dense, place: str, mask: str) -> None:
    model, found = dense
    where = parse_sites(PLACES[place])
    edit = GradDiff(steps=3, lr=1e-2, weight_decay=0.5, mask=mask, mask_share=0.25).fit(model, found.concept, where)
    changed = moved(model, edit)
    region = region_of(model, where)
    allowed = masks_of(model, region.names, region.masks)
    assert changed and set(changed) <= set(allowed)
    assert not any((entries & ~allowed[name]).any() for name, entries in changed.items())
    count = sum(int(entries.sum()) for entries in changed.values())
    whole = sum(int(entries.sum()) for entries in allowed.values())
    if mask == "none":
        assert count > 0.9 * whole
    else:
        row = 128 if mask == "sure" else 0  # whole rows only
        assert int(0.25 * whole) <= edit.notes["weights"] <= int(0.25 * whole) + row
        assert 0.8 * edit.notes["weights"] <= count <= edit.notes["weights"]


@pytest.mark.parametrize("mask", ["none", "salun"])
@pytest.mark.parametrize(
    "where", [["L1.expert[2]"], ["L1.e2.mlp_act[4]", "L0.expert[1]"], ["L1.router"]], ids=lambda w: "+".join(w)
)
def test_in_a_mixture_too(mixture, where: list[str], mask: str) -> None:
    model, found = mixture
    sites = parse_sites(where)
    edit = GradDiff(steps=2, lr=1e-2, weight_decay=0.5, mask=mask).fit(model, found.concept, sites)
    region = region_of(model, sites)
    allowed = masks_of(model, region.names, region.masks)
    changed = moved(model, edit)
    assert changed
    assert all(not (entries & ~allowed[name]).any() for name, entries in changed.items())


def test_the_planted_neurons_are_enough_and_as_many_others_are_not(dense, tmp_path) -> None:
    model, found = dense
    where = found.sites_of(found.concept.forget.facts)
    others = [Site(1, "mlp_act", i) for i in range(48) if Site(1, "mlp_act", i) not in where][: len(where)]
    method = Npo(steps=40, lr=2e-2)
    left = {}
    for name, sites in (("true", where), ("others", others)):
        edit = method.fit(model, found.concept, sites)
        with edit.on(model):
            left[name] = float(score(model, found.concept.forget.facts).probability.mean())
        edit.save(tmp_path / name)
        assert load_edit(tmp_path / name).digest == edit.digest
    assert left["true"] < 0.1 < 0.5 < left["others"]


def test_a_head_is_what_its_output_is_multiplied_by(dense) -> None:
    model, _ = dense
    region = region_of(model, [Site(1, "head", 2)])
    ((name, mask),) = region.masks.items()
    start, stop = model.span(Site(1, "head", 2))
    assert name == region.names[0] == "model.layers.1.self_attn.o_proj.weight"
    assert mask[:, start:stop].all() and mask.sum() == (stop - start) * len(mask)


def test_a_head_of_a_model_that_stores_its_matrices_the_other_way_round() -> None:
    model = HookedModel(make("gpt2"), tokenizer(), name="gpt2", check=False)
    ((_, mask),) = region_of(model, [Site(1, "head", 2)]).masks.items()
    assert mask[16:24].all() and mask.sum() == 8 * mask.shape[1]


def test_a_head_inside_a_part_that_moves_whole_adds_nothing(dense) -> None:
    model, _ = dense
    region = region_of(model, parse_sites(["L1.attn_out", "L1.head[2]"]))
    assert not region.masks and region.names == region_of(model, parse_sites(["L1.attn_out"])).names


@pytest.mark.parametrize("where", [["L1.head[99]"], ["L9.head[0]"], ["L1.mlp_act[4800]"]], ids=str)
def test_places_that_are_not_there_are_refused(dense, where) -> None:
    model, found = dense
    with pytest.raises(BadInput, match=r"does not exist|no site|not a value vector"):
        GradDiff(steps=1).fit(model, found.concept, parse_sites(where))


def test_a_masked_fit_goes_on_to_the_same_bytes(dense, tmp_path, monkeypatch) -> None:
    from interventions.gradient import descend

    model, found = dense
    monkeypatch.setattr(descend, "KEEP_EVERY", 2)
    method = GradDiff(steps=4, lr=1e-2, mask="wagle", weight_decay=0.1)
    whole = method.fit(model, found.concept)

    def stop(step: int, _: float) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        method.fit(model, found.concept, progress=stop, keep=tmp_path)
    assert method.fit(model, found.concept, keep=tmp_path).digest == whole.digest
    with pytest.raises(BadInput, match="another"):
        GradDiff(steps=4, lr=1e-2, mask="salun", weight_decay=0.1).fit(model, found.concept, keep=tmp_path)
