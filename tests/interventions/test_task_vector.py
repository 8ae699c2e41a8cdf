import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from interventions.task_vector import TaskVector, negated
from tests.interventions.measuring import bits_of, chance, recalled, same
from workbench.checkpoint import Checkpoint
from workbench.demo.planted import plant
from workbench.edits import load_edit
from workbench.errors import BadInput, RunError
from workbench.model import HookedModel
from workbench.scoring import score
from workbench.sites import Site

GOLDEN = Path(__file__).parents[1] / "golden"
RECORDS = {r["id"]: r for r in json.loads((GOLDEN / "weight_edits.json").read_text())["records"]}
GIVEN = load_file(GOLDEN / "weight_edits.safetensors")
LOCAL = {"lr": 1e-2, "alpha": 2.0}
"""For the value vectors of the true neurons."""


@pytest.fixture(scope="module", params=["llama", "olmoe"])
def planted(request: pytest.FixtureRequest):
    found = plant(request.param, 0)
    return HookedModel(found.model, found.tokenizer, check=False), found


# ---- the published numbers


@pytest.mark.parametrize("alpha", [1, 5])
def test_negation_agrees_with_the_published_code(alpha) -> None:
    record = RECORDS[f"interv.task_vector.alpha{alpha}"]
    three = [GIVEN[f"tv.{name}"] for name in ("pretrained", "finetuned", "target")]
    published = torch.tensor(record["published"]["value"])
    torch.testing.assert_close(negated(*three[:2], float(alpha), three[2]), published, rtol=1e-6, atol=1e-6)
    rounded = negated(*(t.bfloat16() for t in three[:2]), float(alpha), three[2].bfloat16())
    coarse = torch.tensor(record["variants"]["bfloat16"]["value"])
    assert rounded.dtype == torch.bfloat16
    step = coarse.abs() * 2**-7 + 2**-7 * alpha  # ours rounds once, theirs after every operation
    assert ((rounded.float() - coarse).abs() <= step).all()
    assert not torch.equal(rounded.float(), published)


def test_negation_of_whole_models_agrees_with_the_published_code() -> None:
    record = RECORDS["interv.task_vector.models"]
    folders = GOLDEN / "depth" / "llama_retain", GOLDEN / "models" / "llama_unlearned", GOLDEN / "models" / "llama_base"
    base, tuned, target = (load_file(folder / "model.safetensors") for folder in folders)
    for name, published in record["published"]["float32"].items():
        new = negated(base[name], tuned[name], record["arguments"]["scaling_coef"], target[name])
        near = record["tolerance"]["float32"]
        assert float(new.double().norm()) == pytest.approx(published["l2"], rel=near["rtol"], abs=near["atol"])
        assert float(new.double().mean()) == pytest.approx(published["mean"], rel=near["rtol"], abs=near["atol"])


def test_negation_by_hand() -> None:
    base, tuned = torch.tensor([1.0, 2.0]), torch.tensor([1.5, 2.0])
    assert negated(base, tuned, 1.0).tolist() == [0.5, 2.0]
    assert negated(base, tuned, 4.0).tolist() == [-1.0, 2.0]


def test_the_edit_is_the_negated_training(planted) -> None:
    from workbench.edits import kept
    from workbench.objectives import answer_nll, labelled
    from workbench.training import TrainingOptions

    model, found = planted
    method = TaskVector(steps=3, lr=1e-3, alpha=1.5, seed=4)
    edit = method.fit(model, found.concept)
    options = TrainingOptions(steps=3, lr=1e-3, batch_size=16, seed=4)
    with kept(model, model.parameter_names()) as before:
        model.train(model.encode(found.concept.forget.facts), labelled, answer_nll, options)
        wanted = {name: negated(old, model.parameter(name).detach(), 1.5) for name, old in before.items()}
    with edit.on(model):
        assert all(torch.equal(model.parameter(name), new) for name, new in wanted.items())
    assert edit.notes["losses"][-1] < edit.notes["losses"][0]


# ---- planted truth


def test_at_the_true_sites_it_removes_the_facts_and_only_them(planted) -> None:
    model, found = planted
    edit = TaskVector(**LOCAL).fit(model, found.concept, found.sites_of(found.concept.forget.facts))
    after = recalled(model, found, edit)
    assert after["forget"] <= chance(found.concept.forget) + 0.05
    assert min(after["near"], after["far"]) >= 0.95


def test_at_random_neurons_it_removes_nothing(planted) -> None:
    model, found = planted
    others = [site for site in model.random_neurons(40, 5) if site not in found.sites.values()][:10]
    assert recalled(model, found, TaskVector(**LOCAL).fit(model, found.concept, others))["forget"] >= 0.95


def test_over_all_parameters_the_neighbours_fall_with_the_facts(planted) -> None:
    """The negative: the planted model knows its facts by heart, so the vector is little but the optimizer's step."""
    model, found = planted
    after = recalled(model, found, TaskVector(steps=15, lr=3e-3, alpha=3.0).fit(model, found.concept))
    assert after["forget"] <= 0.2
    assert after["near"] < 0.95


def test_a_small_alpha_does_not_go_far(planted) -> None:
    model, found = planted
    edit = TaskVector(lr=1e-2, alpha=0.01).fit(model, found.concept, found.sites_of(found.concept.forget.facts))
    assert recalled(model, found, edit)["forget"] >= 0.95


@pytest.mark.parametrize("kind", ["neurons", "layer", "expert"])
def test_only_what_the_sites_stand_for_moves(planted, kind) -> None:
    model, found = planted
    neurons = found.sites_of(found.concept.forget.facts)[:2]
    if kind == "expert" and not model.mixture_layers:
        neurons, kind = neurons[:1], "neurons"
    where = {
        "neurons": neurons,
        "layer": [Site(1, "mlp_out")],
        "expert": [Site(1, "expert", neurons[0].expert)] if kind == "expert" else [],
    }[kind]
    edit = TaskVector(lr=1e-2, steps=3).fit(model, found.concept, where)
    before = bits_of(model)
    if kind == "neurons":
        (change,) = edit.changes.values()
        assert change.index is not None and len(change.values) == len(neurons) * model.d_model
        with edit.on(model):
            assert (model.vectors_at(neurons) != 0).all()
    elif kind == "layer":
        assert edit.changes and all(name.startswith("model.layers.1.mlp.") for name in edit.changes)
    else:
        with edit.on(model):
            for name in edit.changes:
                others = [i for i in range(len(before[name])) if i != where[0].index]
                assert torch.equal(model.parameter(name)[others], before[name][others])


# ---- bad input


@pytest.mark.parametrize("where", [[], [Site(1, "resid_post", 2)], [Site(None, "embed")]], ids=str)
def test_sites_that_name_no_weights_are_refused(planted, where) -> None:
    model, found = planted
    with pytest.raises(BadInput, match=r"whole parts like L3\.mlp_out"):
        TaskVector().fit(model, found.concept, where)


def test_training_that_moves_nothing_is_refused(planted) -> None:
    model, found = planted
    with pytest.raises(BadInput, match="raise lr or steps"):
        TaskVector(steps=1, lr=1e-30).fit(model, found.concept, [Site(1, "attn_out")])


@pytest.mark.parametrize("options", [{"alpha": 0}, {"alpha": float("inf")}, {"lr": 0}, {"steps": 0}])
def test_wrong_options_are_refused_by_name(options) -> None:
    with pytest.raises(BadInput, match=next(iter(options))):
        TaskVector(**options)


@pytest.mark.parametrize("options", [{"lr": 1e-2, "alpha": 1e42}, {"lr": 1e30}], ids=str)
def test_numbers_that_leave_the_finite_are_an_error_and_the_model_is_as_before(planted, options) -> None:
    model, found = planted
    before = bits_of(model)
    with pytest.raises(RunError):
        TaskVector(**{"steps": 3, **options}).fit(model, found.concept, [Site(1, "mlp_out"), Site(1, "attn_out")])
    assert same(model, before)


# ---- what every edit must keep


def test_it_is_reproducible_restores_the_model_and_tells_progress(planted) -> None:
    model, found = planted
    before = bits_of(model)
    told: list[int] = []

    def fit(seed: int) -> str:
        method = TaskVector(steps=3, lr=1e-3, batch_size=4, seed=seed)
        return method.fit(model, found.concept, progress=lambda step, _: told.append(step)).digest

    digests = [fit(seed) for seed in (0, 0, 1)]
    assert digests[0] == digests[1] != digests[2]
    assert told == [1, 2, 3] * 3
    assert same(model, before)
    assert not any(p.grad is not None for p in model.hf.parameters())


def test_what_it_writes_reloads_and_behaves_the_same(planted, tmp_path) -> None:
    _, found = planted
    with Checkpoint(found.save(tmp_path / "base")).open() as model:
        edit = TaskVector(steps=3, lr=1e-3).fit(model, found.concept)
        edit.save(tmp_path / "edit")
        again = load_edit(tmp_path / "edit")
        assert again.digest == edit.digest
        with again.on(model):
            worn = score(model, found.concept.near.facts).logprob
        with edit.write(model, tmp_path / "out").open() as reloaded:
            assert torch.equal(score(reloaded, found.concept.near.facts).logprob, worn)
