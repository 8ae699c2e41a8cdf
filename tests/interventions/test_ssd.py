import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from interventions.ssd import Ssd, dampening_factor, selected
from tests.interventions.measuring import bits_of, chance, recalled, same
from workbench.checkpoint import Checkpoint
from workbench.concepts import FactSet
from workbench.demo.planted import plant
from workbench.edits import load_edit
from workbench.errors import BadInput, RunError
from workbench.fisher import answer_squares, squares
from workbench.model import HookedModel
from workbench.scoring import score
from workbench.sites import Site

GOLDEN = Path(__file__).parents[1] / "golden"
RECORDS = {r["id"]: r for r in json.loads((GOLDEN / "weight_edits.json").read_text())["records"]}
GIVEN = load_file(GOLDEN / "weight_edits.safetensors")
SEARCHED = {"alpha": 2.5, "dampening": 0.1}
"""The planted forget facts are 10 of 26, so alpha must be below 2.6."""


@pytest.fixture(scope="module", params=["llama", "olmoe"])
def planted(request: pytest.FixtureRequest):
    found = plant(request.param, 0)
    return HookedModel(found.model, found.tokenizer, check=False), found


# ---- the published numbers


@pytest.mark.parametrize("name", [n for n in RECORDS if n.startswith("interv.ssd.alpha")])
def test_dampening_agrees_with_the_published_code(name) -> None:
    record = RECORDS[name]
    options = record["arguments"]
    for weight in ("W0", "b0"):
        forget, full = GIVEN[f"ssd.fisher_forget.{weight}"], GIVEN[f"ssd.fisher_full.{weight}"]
        factor = dampening_factor(forget, full, options["dampening_constant (lambda)"], float(options["exponent"]))
        chosen = selected(forget, full, options["selection_weighting (alpha)"])
        ours = torch.where(chosen, GIVEN[f"ssd.{weight}"] * factor, GIVEN[f"ssd.{weight}"])
        published = torch.tensor(record["published"]["value"][weight], dtype=torch.float64)
        torch.testing.assert_close(ours, published, **record["tolerance"]["float64"])


@pytest.mark.parametrize("size", [1, 4])
def test_importance_agrees_with_the_published_code(size) -> None:
    record = RECORDS[f"interv.ssd.importance_batch{size}"]
    parameters = {name: GIVEN[f"ssd.{name}"].clone().requires_grad_() for name in ("W0", "b0")}
    rows = [slice(start, start + size) for start in range(0, len(GIVEN["ssd.x"]), size)]
    losses = (
        torch.nn.functional.cross_entropy(
            GIVEN["ssd.x"][at] @ parameters["W0"].mT + parameters["b0"], GIVEN["ssd.y"][at]
        )
        for at in rows
    )
    sums, count = squares(parameters, losses)
    assert count == len(rows)
    for name, total in sums.items():
        published = torch.tensor(record["published"]["value"][name], dtype=torch.float64)
        torch.testing.assert_close(total / count, published, **record["tolerance"]["float64"])


def test_the_factor_by_hand() -> None:
    forget, full = torch.tensor([4.0, 4.0, 0.0, 1.0]), torch.tensor([0.2, 0.0, 0.0, 4.0])
    assert selected(forget, full, 10.0).tolist() == [True, True, False, False]
    assert dampening_factor(forget, full, 1.0, 1.0).tolist() == pytest.approx([0.05, 0.0, 1.0, 1.0])
    assert dampening_factor(forget, full, 0.5, 2.0)[0] == pytest.approx(0.025**2)


def test_importance_of_answers_is_the_mean_square_of_every_fact_alone(planted) -> None:
    model, found = planted
    name, facts = "model.norm.weight", found.concept.forget.facts
    alone = [answer_squares(model, [fact], [name])[0][name] for fact in facts]
    together, count = answer_squares(model, facts, [name])
    assert count == len(facts)
    torch.testing.assert_close(together[name], torch.stack(alone).sum(dim=0))
    batched, batches = answer_squares(model, facts, [name], batch_size=5)
    assert batches == 2
    assert (batched[name] / 2).sum() < 0.9 * (together[name] / count).sum()  # gradients disagree and cancel


# ---- planted truth


def test_it_removes_the_facts_and_only_them(planted) -> None:
    model, found = planted
    edit = Ssd(**SEARCHED).fit(model, found.concept)
    after = recalled(model, found, edit)
    assert after["forget"] <= chance(found.concept.forget) + 0.05
    assert min(after["near"], after["far"]) >= 0.95
    assert 0 < edit.notes["selected"] < 0.3 * edit.notes["of"]
    assert edit.notes["of"] == sum(p.numel() for p in model.hf.parameters())
    assert edit.notes["forget_share_of_all"] == pytest.approx(10 / 26)
    assert "flattered" in edit.notes["retain"]


def test_the_same_with_the_facts_parted_from_others_removes_those_instead(planted) -> None:
    """The opposite: told to forget the far facts, it keeps the ones planted as `forget`."""
    model, found = planted
    swapped = found.concept.model_copy(update={"forget": found.concept.far, "far": found.concept.forget})
    after = recalled(model, found, Ssd(**SEARCHED).fit(model, swapped))
    assert after["forget"] >= 0.95
    assert after["far"] <= 0.25


def test_an_alpha_that_is_a_little_too_low_takes_the_neighbours_along() -> None:
    """The sharp edge: in this mixture weights that everything needs lie between 2.0 and 2.5."""
    found = plant("olmoe", 5)
    model = HookedModel(found.model, found.tokenizer, check=False)
    low, high = (recalled(model, found, Ssd(alpha=a, dampening=0.1).fit(model, found.concept)) for a in (2.0, 2.5))
    assert min(low["near"], low["far"]) < 0.5
    assert min(high["near"], high["far"]) >= 0.95
    assert max(low["forget"], high["forget"]) <= 0.2


@pytest.mark.parametrize("kind", ["neurons", "layer", "mixed"])
def test_only_what_the_sites_stand_for_is_dampened(planted, kind) -> None:
    model, found = planted
    neurons = found.sites_of(found.concept.forget.facts)
    where = {"neurons": neurons, "layer": [Site(1, "mlp_out")], "mixed": [Site(0, "attn_out"), *neurons]}[kind]
    edit = Ssd(alpha=1.5, dampening=0.1).fit(model, found.concept, where)
    assert edit.changes
    if kind == "neurons":
        (change,) = edit.changes.values()
        assert edit.notes["of"] == len(neurons) * model.d_model
        assert len(change.values) <= edit.notes["selected"] <= edit.notes["of"]
        with edit.on(model):
            moved = model.vectors_at(neurons)
        assert (moved.norm(dim=1) < model.vectors_at(neurons).norm(dim=1)).all()
    elif kind == "layer":
        assert all(name.startswith("model.layers.1.mlp.") for name in edit.changes)
    else:
        assert {name.split(".")[2] for name in edit.changes} == {"0", "1"}


def test_at_random_neurons_it_removes_nothing(planted) -> None:
    model, found = planted
    others = [site for site in model.random_neurons(40, 5) if site not in found.sites.values()][:10]
    assert recalled(model, found, Ssd(**SEARCHED).fit(model, found.concept, others))["forget"] >= 0.95


def test_one_expert_alone() -> None:
    found = plant("olmoe", 0)
    model = HookedModel(found.model, found.tokenizer, check=False)
    expert = found.sites_of(found.concept.forget.facts)[0].expert
    edit = Ssd(**SEARCHED).fit(model, found.concept, [Site(1, "expert", expert)])
    before = bits_of(model)
    with edit.on(model):
        for name in edit.changes:
            now = model.parameter(name)
            others = [i for i in range(len(now)) if i != expert]
            assert torch.equal(now[others], before[name][others])
            assert not torch.equal(now[expert], before[name][expert])


# ---- the trap, and other bad input


def test_the_published_alpha_cannot_select_anything_here_and_the_error_says_what_would(planted) -> None:
    model, found = planted
    before = bits_of(model)
    with pytest.raises(BadInput, match=r"38% of all facts.*2\.6 times.*ratio of importances here is 2\.6;") as caught:
        Ssd().fit(model, found.concept)
    assert "alpha 10 selects no weight" in str(caught.value)
    assert same(model, before)


def test_an_alpha_just_below_the_highest_ratio_selects_and_one_above_does_not(planted) -> None:
    model, found = planted
    where = [Site(0, "attn_out")]
    ratio = Ssd(alpha=1.0, dampening=0.1).fit(model, found.concept, where).notes["highest_ratio"]
    assert 1 < ratio <= 2.6001
    assert Ssd(alpha=0.999 * ratio, dampening=0.1).fit(model, found.concept, where).notes["selected"] >= 1
    with pytest.raises(BadInput, match="alpha"):
        Ssd(alpha=1.001 * ratio, dampening=0.1).fit(model, found.concept, where)


def test_a_dampening_that_dampens_nothing_is_refused(planted) -> None:
    model, found = planted
    with pytest.raises(BadInput, match="Lower dampening"):
        Ssd(alpha=2.0, dampening=5.0).fit(model, found.concept)


def test_without_facts_to_retain_it_is_refused(planted) -> None:
    model, found = planted
    empty = FactSet(name="none")
    bare = found.concept.model_copy(update={"near": empty, "far": empty, "retain": empty})
    with pytest.raises(BadInput, match="nothing to retain"):
        Ssd(**SEARCHED).fit(model, bare)


@pytest.mark.parametrize("where", [[], [Site(None, "embed")]], ids=str)
def test_sites_that_name_no_weights_are_refused(planted, where) -> None:
    model, found = planted
    with pytest.raises(BadInput, match=r"whole parts like L3\.mlp_out"):
        Ssd(**SEARCHED).fit(model, found.concept, where)


@pytest.mark.parametrize("options", [{"alpha": 0}, {"alpha": float("inf")}, {"dampening": -1}, {"batch_size": 0}])
def test_wrong_options_are_refused_by_name(options) -> None:
    with pytest.raises(BadInput, match=next(iter(options))):
        Ssd(**options)


def test_weights_that_are_no_numbers_are_an_error(planted) -> None:
    model, found = planted
    weight = model.parameter("model.layers.1.self_attn.o_proj.weight")
    before = weight.detach().clone()
    with torch.no_grad():
        weight[0, 0] = torch.nan
    try:
        with pytest.raises(RunError, match="not finite"):
            Ssd(**SEARCHED).fit(model, found.concept)
    finally:
        with torch.no_grad():
            weight.copy_(before)


# ---- what every edit must keep


def test_it_is_reproducible_restores_the_model_and_tells_progress(planted) -> None:
    model, found = planted
    before, flags = bits_of(model), [p.requires_grad for p in model.hf.parameters()]
    told: list[int] = []
    fitted = [
        Ssd(**SEARCHED, batch_size=size).fit(model, found.concept, progress=lambda step, _: told.append(step)).digest
        for size in (1, 1, 4)
    ]
    assert fitted[0] == fitted[1] != fitted[2]
    assert told == [*range(1, 27), *range(1, 27), *range(1, 8)]
    assert same(model, before)
    assert [p.requires_grad for p in model.hf.parameters()] == flags
    assert not any(p.grad is not None for p in model.hf.parameters())


def test_what_it_writes_reloads_and_behaves_the_same(planted, tmp_path) -> None:
    _, found = planted
    with Checkpoint(found.save(tmp_path / "base")).open() as model:
        edit = Ssd(**SEARCHED).fit(model, found.concept)
        edit.save(tmp_path / "edit")
        again = load_edit(tmp_path / "edit")
        assert again.digest == edit.digest
        with again.on(model):
            worn = score(model, found.concept.near.facts).logprob
        with edit.write(model, tmp_path / "out").open() as reloaded:
            assert torch.equal(score(reloaded, found.concept.near.facts).logprob, worn)
