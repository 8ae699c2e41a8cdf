"""Ascent in causal layers: only their MLPs move, the retain weight follows the published rule, the rest is kept."""

from pathlib import Path

import pytest
import torch

from interventions.causal_layers import Brake, CausalLayers, multiplier
from interventions.gradient.descend import collate, pair
from workbench.checkpoint import Checkpoint
from workbench.concepts import FactSet
from workbench.demo.planted import plant
from workbench.edits import load_edit
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.objectives import answer_loss
from workbench.scoring import score
from workbench.sites import Site, parse_sites

QUICK = {"steps": 40, "lr": 3e-3}
HELD = [Site(1, "mlp_out")]
"""Where the forget facts were planted."""


@pytest.fixture(scope="module", params=["llama", "olmoe"])
def taught(request: pytest.FixtureRequest):
    found = plant(request.param, 0)
    return HookedModel(found.model, found.tokenizer, check=False), found.concept


@pytest.fixture(scope="module")
def dense():
    found = plant("llama", 0)
    return HookedModel(found.model, found.tokenizer, check=False), found.concept


def accuracy(model: HookedModel, concept, edit) -> dict[str, float]:
    with edit.on(model):
        return {
            n: float(score(model, getattr(concept, n).facts).greedy.float().mean()) for n in ("forget", "near", "far")
        }


# ---- the rule


@pytest.mark.parametrize(
    ("above", "paper", "code"),
    [
        (-1.0, 1.2, 1.2),
        (0.0, 1.2, 1.2),
        (1e-9, 1.2, 1.2),  # 0.3 * 1 + 0.8 = 1.1, below the lower bound
        (0.25, 1.3, 1.3),  # 0.3 * 1.565 + 0.8 = 1.27
        (0.5, 1.5, 1.5),  # 0.3 * 2.449 + 0.8 = 1.53
        (0.9, 2.3, 2.3),  # 0.3 * 5.016 + 0.8 = 2.30
        (1.0, 2.6, 2.3),  # 0.3 * 6 + 0.8
        (2.0, 2.8, 2.3),
        (1e4, 2.8, 2.3),
    ],
)
def test_the_multiplier_by_hand(above: float, paper: float, code: float) -> None:
    assert multiplier(0.7 + above, 0.7, 2.8) == pytest.approx(paper)
    assert multiplier(0.7 + above, 0.7, 2.3) == pytest.approx(code)


def test_the_reference_is_the_mean_of_the_first_round() -> None:
    brake = Brake(first=3, upper=2.8)
    assert [brake.weight(loss) for loss in (9.0, 0.2, 0.4)] == [1.2, 1.2, 1.2]
    assert brake.reference == pytest.approx(3.2)
    assert [brake.weight(loss) for loss in (4.2, 3.2, 99.0)] == [pytest.approx(2.6), 1.2, 2.8]
    assert brake.used == pytest.approx([1.2, 1.2, 1.2, 2.6, 1.2, 2.8])
    assert len(brake.seen) == 3


def test_the_published_reference_is_divided_by_the_number_of_facts() -> None:
    brake = Brake(first=2, upper=2.3, facts=16)
    for loss in (0.5, 1.1):
        assert brake.reference is None
        brake.weight(loss)
    assert brake.reference == pytest.approx(0.1)


# ---- what it does to a model


def test_forget_falls_to_chance_and_the_rest_stays(taught) -> None:
    model, concept = taught
    edit = CausalLayers(lr=3e-3).fit(model, concept, HELD)
    after = accuracy(model, concept, edit)
    assert after["forget"] <= 1 / 8 + 0.05
    assert min(after["near"], after["far"]) >= 0.95
    assert edit.changes and all(name.startswith("model.layers.1.mlp.") for name in edit.changes)
    assert edit.notes["layers"] == [1] and "flattered" in edit.notes["retain"]


def test_the_multiplier_rises_only_after_the_first_round_and_within_its_bounds(dense) -> None:
    model, concept = dense
    edit = CausalLayers(**QUICK, batch_size=4).fit(model, concept, HELD)
    used = edit.notes["multipliers"]
    rounds = -(-(len(concept.near) + len(concept.far)) // 4)
    assert len(used) == QUICK["steps"] and set(used[:rounds]) == {1.2}
    assert 1.2 < max(used[rounds:]) <= 2.8
    assert edit.notes["reference"] > 0
    braked = CausalLayers(**QUICK, batch_size=4, upper=1.2).fit(model, concept, HELD)
    assert set(braked.notes["multipliers"]) == {1.2}
    assert braked.digest != edit.digest


def test_the_published_form_brakes_from_a_smaller_reference(dense) -> None:
    model, concept = dense
    mine, theirs = (
        CausalLayers(steps=12, lr=3e-3, batch_size=4, published=how).fit(model, concept, HELD) for how in (False, True)
    )
    assert theirs.notes["reference"] == pytest.approx(mine.notes["reference"] / 4)
    assert mine.notes["losses"][:4] == theirs.notes["losses"][:4]
    assert max(theirs.notes["multipliers"]) <= 2.3


def test_the_first_loss_is_the_joint_one(dense) -> None:
    model, concept = dense
    facts = (*concept.near.facts, *concept.far.facts)
    edit = CausalLayers(steps=1, batch_size=len(facts)).fit(model, concept, HELD)
    batch = collate(pair(model, concept.forget.facts, facts, 0))
    with torch.no_grad():
        forget, retain = (float(answer_loss(model.hf, batch, part).mean) for part in ("forget.", "retain."))
    assert edit.notes["losses"] == [pytest.approx(-forget + 1.2 * retain, rel=1e-4)]
    assert edit.notes["reference"] == pytest.approx(retain, rel=1e-4)


def test_layers_that_do_not_hold_the_facts_spare_them_less_easily(dense) -> None:
    model, concept = dense
    options = {"steps": 15, "lr": 1e-3}
    held, above = (
        accuracy(model, concept, CausalLayers(**options).fit(model, concept, [Site(layer, "mlp_out")]))
        for layer in (1, 2)
    )
    assert held["forget"] < above["forget"]


@pytest.mark.parametrize(
    ("where", "layers"),
    [
        (["L2.resid_post", "L0.head[1]"], {0, 2}),
        (["L1.mlp_act[3]", "L1.mlp_act[4]"], {1}),
        (["embed", "L0.attn_out"], {0}),
    ],
    ids=str,
)
def test_any_site_names_its_layer(dense, where, layers) -> None:
    model, concept = dense
    edit = CausalLayers(steps=2, lr=1e-3).fit(model, concept, parse_sites(where))
    assert {int(name.split(".")[2]) for name in edit.changes} == layers
    assert all(".mlp." in name for name in edit.changes)
    assert edit.notes["where"] == where


def test_controls_are_other_layers(dense) -> None:
    model, _ = dense
    found = CausalLayers().controls(model, HELD)
    (_, random), (_, every) = found["random sites"], found["all sites"]
    assert len(random) == 1 and random != HELD
    assert [site.layer for site in every] == [0, 1, 2]


def test_the_model_is_as_before_and_the_same_seed_gives_the_same_bytes(taught) -> None:
    model, concept = taught
    before = {name: value.clone() for name, value in model.hf.state_dict().items()}
    digests = [CausalLayers(steps=3, seed=seed, batch_size=4).fit(model, concept, HELD).digest for seed in (0, 0, 1)]
    assert all(torch.equal(value, before[name]) for name, value in model.hf.state_dict().items())
    assert digests[0] == digests[1] != digests[2]


def test_edit_is_saved_and_the_checkpoint_reloads_equal(planted_folder: Path, planted, tmp_path: Path) -> None:
    model = Checkpoint(planted_folder).open(check=False)
    edit = CausalLayers(steps=2, lr=1e-3).fit(model, planted.concept, HELD)
    edit.save(tmp_path / "edit")
    assert load_edit(tmp_path / "edit").digest == edit.digest
    with edit.on(model):
        wanted = {name: value.clone() for name, value in model.hf.state_dict().items()}
    edit.write(model, tmp_path / "written")
    again = Checkpoint(tmp_path / "written").open(check=False).hf.state_dict()
    assert all(torch.equal(again[name], value) for name, value in wanted.items())


@pytest.mark.parametrize("where", [None, [], [Site(None, "embed")]], ids=str)
def test_without_a_layer_it_says_what_to_do(dense, where) -> None:
    model, concept = dense
    with pytest.raises(BadInput, match="--localise causal_trace --top K"):
        CausalLayers(steps=1).fit(model, concept, where)


def test_a_layer_that_is_not_there_is_refused(dense) -> None:
    model, concept = dense
    with pytest.raises(BadInput, match="layers 0 to 2"):
        CausalLayers(steps=1).fit(model, concept, [Site(7, "mlp_out")])


def test_nothing_to_retain_is_refused(dense) -> None:
    model, concept = dense
    empty = FactSet(name="none")
    bare = concept.model_copy(update={"near": empty, "far": empty, "retain": empty})
    with pytest.raises(BadInput, match="nothing to retain: add some$"):
        CausalLayers(steps=1).fit(model, bare, HELD)


@pytest.mark.parametrize("options", [{"upper": 1.0}, {"steps": 0}, {"retain_weight": 1}])
def test_wrong_options_are_refused_by_name(options) -> None:
    with pytest.raises(BadInput, match=next(iter(options))):
        CausalLayers(**options)


def test_a_fit_that_was_stopped_goes_on_to_the_same_bytes(dense, tmp_path: Path, monkeypatch) -> None:
    """Stopped in the first round of facts, of which the reference is made, and again after it."""
    monkeypatch.setattr("interventions.causal_layers.KEEP_EVERY", 1)
    model, concept = dense
    method = CausalLayers(steps=12, lr=3e-3, batch_size=4)
    whole = method.fit(model, concept, HELD)
    assert len(set(whole.notes["multipliers"])) > 1
    before = {name: value.clone() for name, value in model.hf.state_dict().items()}
    for stop in (3, 8):

        def stopping(step: int, _: float, stop: int = stop) -> None:
            if step == stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            method.fit(model, concept, HELD, progress=stopping, keep=tmp_path)
    told: list[int] = []
    again = method.fit(model, concept, HELD, progress=lambda step, _: told.append(step), keep=tmp_path)
    assert told == [8, 9, 10, 11, 12]
    assert (again.digest, again.notes) == (whole.digest, whole.notes)
    assert method.fit(model, concept, HELD, keep=tmp_path).notes == whole.notes  # finished: nothing is trained again
    assert all(torch.equal(value, before[name]) for name, value in model.hf.state_dict().items())
    with pytest.raises(BadInput, match="another training"):
        method.model_copy(update={"upper": 1.2}).fit(model, concept, HELD, keep=tmp_path)
