import pytest
import torch

from interventions import INTERVENTIONS
from interventions.gradient.grad_ascent import GradAscent
from interventions.gradient.npo import Npo
from workbench.concepts import FactSet
from workbench.demo.planted import plant
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.scoring import score
from workbench.sites import Site

QUICK = {"steps": 40, "lr": 3e-3}


@pytest.fixture(scope="module", params=["llama", "olmoe"])
def planted(request: pytest.FixtureRequest):
    found = plant(request.param, 0)
    return HookedModel(found.model, found.tokenizer, check=False), found


def known(model: HookedModel, concept, edit) -> dict[str, float]:
    with edit.on(model):
        return {
            name: float(score(model, getattr(concept, name).facts).probability.mean())
            for name in ("forget", "near", "far")
        }


def test_npo_forgets_and_its_retain_loss_protects(planted) -> None:
    model, found = planted
    edit = Npo(**QUICK).fit(model, found.concept)
    after = known(model, found.concept, edit)
    assert after["forget"] < 0.1
    assert min(after["near"], after["far"]) > 0.8
    assert "flattered" in edit.notes["retain"]


def test_plain_ascent_damages_what_a_retain_loss_protects(planted) -> None:
    model, found = planted
    plain, guarded = (
        known(model, found.concept, GradAscent(**QUICK, retain_weight=w).fit(model, found.concept)) for w in (0.0, 1.0)
    )
    assert plain["forget"] < 0.1
    assert guarded["near"] > plain["near"] + 0.3


def test_fitting_leaves_the_model_as_it_was_and_is_reproducible(planted) -> None:
    model, found = planted
    before = {name: value.clone() for name, value in model.hf.state_dict().items()}
    digests = [Npo(steps=3, seed=seed).fit(model, found.concept).digest for seed in (0, 0, 1)]
    assert all(torch.equal(value, before[name]) for name, value in model.hf.state_dict().items())
    assert digests[0] == digests[1] != digests[2]
    assert not any(p.grad is not None for p in model.hf.parameters())


@pytest.mark.parametrize("where", [[Site(1, "mlp_out")], [Site(0, "attn_out"), Site(2, "resid_post")]], ids=str)
def test_only_the_parts_named_move(planted, where) -> None:
    model, found = planted
    edit = GradAscent(**QUICK).fit(model, found.concept, where)
    layers = {str(site.layer) for site in where}
    assert edit.changes
    assert {name.split(".")[2] for name in edit.changes} == layers
    if where == [Site(1, "mlp_out")]:
        assert all(".mlp." in name for name in edit.changes)


@pytest.mark.parametrize("where", [[], [Site(1, "resid_post", 3)], [Site(None, "embed")]], ids=str)
def test_sites_inside_a_tensor_are_refused(planted, where) -> None:
    model, found = planted
    with pytest.raises(BadInput, match=r"whole parts like L3\.mlp_out"):
        Npo(steps=1).fit(model, found.concept, where)


def test_a_retain_set_is_used_instead_of_what_is_measured(planted) -> None:
    model, found = planted
    concept = found.concept.model_copy(
        update={
            "retain": FactSet(name="retain", facts=found.concept.far.facts[:4]),
            "far": FactSet(name="far", facts=found.concept.far.facts[4:]),
        }
    )
    assert "disjoint" in Npo(steps=1).fit(model, concept).notes["retain"]


def test_a_retain_loss_without_facts_to_retain_is_refused(planted) -> None:
    model, found = planted
    empty = FactSet(name="none")
    bare = found.concept.model_copy(update={"near": empty, "far": empty, "retain": empty})
    with pytest.raises(BadInput, match="retain_weight=0"):
        Npo(steps=1).fit(model, bare)
    assert Npo(steps=1, retain_weight=0).fit(model, bare).changes


def test_progress_is_told_every_step(planted) -> None:
    model, found = planted
    told: list[int] = []
    GradAscent(steps=4).fit(model, found.concept, progress=lambda step, _: told.append(step))
    assert told == [1, 2, 3, 4]


@pytest.mark.parametrize("options", [{"bta": 0.1}, {"beta": 0}, {"steps": 0}, {"lr": -1}])
def test_wrong_options_are_refused_by_name(options) -> None:
    with pytest.raises(BadInput, match=next(iter(options))):
        INTERVENTIONS.load("npo")(**options)


def test_a_fit_that_was_stopped_goes_on_to_the_same_bytes(planted, tmp_path) -> None:
    model, found = planted
    method = Npo(steps=60, lr=1e-3)
    whole = method.fit(model, found.concept)

    def stop(step: int, _: float) -> None:
        if step == 55:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        method.fit(model, found.concept, progress=stop, keep=tmp_path)
    steps: list[int] = []
    again = method.fit(model, found.concept, progress=lambda step, _: steps.append(step), keep=tmp_path)
    assert steps[0] > 1 and steps[-1] == 60
    assert again.digest == whole.digest
    assert again.notes["losses"] == whole.notes["losses"]
    with pytest.raises(BadInput, match=r"another|other"):
        Npo(steps=60, lr=1e-3, beta=0.1).fit(model, found.concept, keep=tmp_path)
