import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from interventions.guards.prompts import fires
from interventions.key_space import KeyBox, KeyEllipsoid
from interventions.key_space_detection import KeySpaceDetection, key_site
from tests import zoo
from tests.interventions import skills
from workbench.concepts import Concept, FactSet
from workbench.demo.planted import plant
from workbench.edits import HookEdit, load_edit
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.scoring import score
from workbench.sites import Site
from workbench.tokens import pad
from workbench.triggers import box

GOLDEN = Path(__file__).parents[1] / "golden"
PLUS, LARGER = skills.PLUS, skills.LARGER


@pytest.fixture(scope="module")
def model() -> HookedModel:
    return skills.skilled()


@pytest.fixture(scope="module")
def edit(model: HookedModel) -> HookEdit:
    return KeySpaceDetection().fit(model, skills.question(PLUS[:70], LARGER[:70], tuple(LARGER[70:])))


@pytest.fixture(scope="module", params=["llama", "olmoe"])
def planted(request: pytest.FixtureRequest):
    found = plant(request.param, 0)
    return HookedModel(found.model, found.tokenizer, check=False), found.concept


def inside(region: KeyBox | KeyEllipsoid, keys: torch.Tensor, alpha: float) -> list[bool]:
    trigger = region.trigger(Site(0, "mlp_act"), alpha)
    tensors = {name: tensor.double() for name, tensor in trigger.tensors.items()}
    return box(keys[None], torch.ones(1, len(keys), dtype=torch.bool), **tensors, **trigger.options)[0].tolist()


class TestStatistics:
    def test_they_are_those_of_the_published_code(self) -> None:
        (record,) = json.loads((GOLDEN / "key_space.json").read_text())["records"]
        tensors, value = load_file(GOLDEN / "key_space.safetensors"), record["published"]["value"]
        region = KeyBox.of(tensors["ksd.forget_keys"])
        assert region.mean.tolist() == pytest.approx(value["mean"], rel=1e-9)
        assert region.std.tolist() == pytest.approx(value["std"], rel=1e-9)
        assert region.k == pytest.approx(value["k"], abs=1e-5)  # published: bisection to 1e-5
        assert region.k == pytest.approx(record["independent_float64"]["k"], rel=1e-9)
        for alpha, expected in value["inside"].items():
            assert inside(region, tensors["ksd.queries"], float(alpha)) == expected
            assert (region.reach(tensors["ksd.queries"]) <= float(alpha)).tolist() == expected

    def test_by_hand(self) -> None:
        region = KeyBox.of(torch.tensor([[0.0], [2.0]]).double())
        assert (float(region.mean), float(region.std), region.k) == pytest.approx((1, 2**0.5, 0.5**0.5))
        queries = torch.tensor([[-1.01], [-0.99], [2.99], [3.01]]).double()
        assert inside(region, queries, 2.0) == [False, True, True, False]

    def test_dimensions_that_do_not_vary_are_left_out(self) -> None:
        keys = torch.tensor([[0.0, 0.1], [2.0, 0.1], [1.0, 0.1]]).double()
        region = KeyBox.of(keys)
        assert region.varied.tolist() == [True, False]
        queries = torch.tensor([[1.0, 77.0], [99.0, 0.1]]).double()
        assert inside(region, queries, 1.0) == [True, False]
        assert torch.isfinite(region.reach(queries)).all()

    def test_keys_that_are_all_the_same_are_refused(self) -> None:
        for make in (KeyBox.of, lambda keys: KeyEllipsoid.of(keys, 0.1)):
            with pytest.raises(BadInput, match="another site"):
                make(torch.ones(5, 3).double())

    @pytest.mark.parametrize("share", [1.0, 0.75, 0.5, 0.3])
    def test_the_stored_detector_agrees_with_the_reach(self, share: float) -> None:
        generator = torch.Generator().manual_seed(0)
        keys = torch.randn(20, 8, generator=generator).double()
        keys[:, 3] = 0.5  # one that does not vary
        region, queries = KeyBox.of(keys, share), torch.randn(40, 8, generator=generator).double()
        reach = region.reach(queries)
        assert int((reach <= 1.1).sum()) not in (0, 40) or share < 1
        for alpha in (0.2, 0.5, 1.1):
            assert inside(region, queries, alpha) == (reach <= alpha).tolist()

    def test_a_share_of_the_dimensions_is_counted_among_those_that_vary(self) -> None:
        region = KeyBox.of(torch.tensor([[-1.0, -1, -1, -1, 5], [1, 1, 1, 1, 5]]).double(), 0.75)
        queries = torch.tensor([[0.0, 0, 0, 9, 0], [0, 0, 9, 9, 5]]).double()
        assert inside(region, queries, 1.0) == [True, False]

    def test_the_ellipsoid_holds_its_own_keys_and_not_what_is_away(self) -> None:
        generator = torch.Generator().manual_seed(0)
        keys = torch.randn(10, 30, generator=generator).double()
        region = KeyEllipsoid.of(keys, 0.1)
        assert region.reach(keys).max() == pytest.approx(1)
        assert region.reach(keys + 10).min() > 3


class TestTwoSkills:
    """Another kind of prompt: the assumption holds."""

    @pytest.mark.parametrize("forget, other", [(PLUS, LARGER), (LARGER, PLUS)])
    @pytest.mark.parametrize("options", [{}, {"shape": "mahalanobis"}, {"seed": 1}])
    def test_it_fires_on_the_skill_and_not_on_the_other(self, model, forget, other, options) -> None:
        guard = KeySpaceDetection(**options).fit(model, skills.question(forget[:70], other[:70]))
        assert float(fires(model, guard.trigger, forget[70:]).double().mean()) >= 0.9
        assert float(fires(model, guard.trigger, other[70:]).double().mean()) <= 0.05

    def test_the_skill_is_refused_and_the_other_keeps_every_bit(self, model, edit: HookEdit) -> None:
        before = {"forget": score(model, PLUS[70:]), "near": score(model, LARGER[70:])}
        with edit.on(model):
            after = {"forget": score(model, PLUS[70:]), "near": score(model, LARGER[70:])}
        assert before["forget"].greedy.double().mean() >= 0.95
        assert after["forget"].greedy.double().mean() <= 1 / skills.SIZE + 0.05
        assert torch.equal(after["near"].logprob, before["near"].logprob)

    def test_the_text_is_said(self, model, edit: HookEdit) -> None:
        text = KeySpaceDetection().text
        (encoded,) = model.encode([PLUS[80].model_copy(update={"answer": text})])
        with edit.on(model):
            logits = model.run(pad([encoded.ids], [encoded.answer_start])).logits
        said = logits[0, encoded.answer_start - 1 : -1].argmax(-1)
        assert model.tokenizer.decode(said).strip() == text

    def test_the_notes_say_how_often_it_fires(self, model, edit: HookEdit) -> None:
        notes = edit.notes
        assert notes["site"] == "L2.mlp_act" and notes["tuned"] is True and notes["k"] > 1
        rates = notes["fires on"]
        assert {name: rate["n"] for name, rate in rates.items()} == {
            "forget, fitted": 49,
            "forget, held out": 21,
            "forget, reworded": 0,
            "keep, held out": 21,
            "near": len(LARGER[70:]),
            "far": 0,
        }
        assert rates["far"]["share"] is None and rates["near"]["share"] <= 0.05
        held = float(fires(model, edit.trigger, PLUS[:70]).double().sum())
        told = sum(rates[f"forget, {half}"]["share"] * rates[f"forget, {half}"]["n"] for half in ("fitted", "held out"))
        assert told == pytest.approx(held)
        assert notes["warning"] == "" and "whoever drops the guard" in notes["weights"]

    def test_the_same_prompt_gets_the_same_answer_alone_and_in_a_batch(self, model, edit: HookEdit) -> None:
        facts = [*PLUS[70:90], *LARGER[70:90]]
        with edit.on(model):
            together = score(model, facts).logprob
            alone = torch.cat([score(model, [fact]).logprob for fact in facts])
        assert torch.allclose(together, alone, atol=1e-4)

    def test_saved_and_loaded_it_is_the_same_and_the_model_too(self, model, edit: HookEdit, tmp_path: Path) -> None:
        weights = {name: model.parameter(name).detach().clone() for name in model.parameter_names()}
        again = KeySpaceDetection().fit(model, skills.question(PLUS[:70], LARGER[:70], tuple(LARGER[70:])))
        assert again.digest == edit.digest and again.notes == edit.notes
        edit.save(tmp_path / "guard")
        loaded = load_edit(tmp_path / "guard")
        scores = []
        for one in (edit, loaded):
            with one.on(model):
                scores.append(score(model, PLUS[60:80]).logprob)
        assert torch.equal(*scores) and loaded.digest == edit.digest
        assert all(torch.equal(weights[name], model.parameter(name)) for name in weights)
        assert KeySpaceDetection(seed=1).fit(model, skills.question(PLUS[:70], LARGER[:70])).digest != edit.digest

    def test_a_given_alpha_is_used(self, model, edit: HookEdit) -> None:
        given = KeySpaceDetection(alpha=1.25).fit(model, skills.question(PLUS[:70], LARGER[:70]))
        assert given.notes["alpha"] == 1.25 and given.notes["tuned"] is False
        assert given.notes["k"] == edit.notes["k"]
        ratio = given.trigger.tensors["radius"] / edit.trigger.tensors["radius"]
        assert torch.allclose(ratio, torch.full_like(ratio, 1.25 / edit.notes["alpha"]))

    def test_the_same_question_in_another_order_gets_past(self, model) -> None:
        """`b3 b7 max` for `max b3 b7`: of .94 to 1.0 in order, .35 to .75 are left out of it, in five trainings."""
        guard = KeySpaceDetection().fit(model, skills.question(LARGER[:70], PLUS[:70]))
        turned = [f.model_copy(update={"prompt": f"{f.subject} max"}) for f in LARGER[70:]]
        ordered = float(fires(model, guard.trigger, LARGER[70:]).double().mean())
        assert float(fires(model, guard.trigger, turned).double().mean()) <= ordered - 0.1


class TestWhereItFails:
    def test_one_skill_in_two_halves_cannot_be_told_apart(self, model) -> None:
        with pytest.raises(BadInput, match="does not tell them apart"):
            KeySpaceDetection().fit(model, skills.question(PLUS[:60], PLUS[60:]))
        forced = KeySpaceDetection(force=True, alpha=3.0).fit(model, skills.question(PLUS[:60], PLUS[60:]))
        assert forced.notes["balanced accuracy, held out"] <= 0.6 and "keep, held out" in forced.notes["warning"]

    def test_an_alpha_that_covers_what_is_to_stay_is_refused_with_the_figures(self, model) -> None:
        with pytest.raises(BadInput, match=r"fires on 1\.00 of 21 held-out forget.* 1\.00 of 21 .*a smaller alpha"):
            KeySpaceDetection(alpha=50.0).fit(model, skills.question(PLUS[:70], LARGER[:70]))

    def test_facts_of_one_format_share_their_keys(self, planted) -> None:
        """Refused, or the notes warn of the near facts it silences as well."""
        model, concept = planted
        guard = KeySpaceDetection(force=True).fit(model, concept)
        assert "near" in guard.notes["warning"] and guard.notes["fires on"]["near"]["share"] > 0.1
        before = score(model, concept.near.facts).greedy.double().mean()
        with guard.on(model):
            assert score(model, concept.near.facts).greedy.double().mean() < before


def test_the_key_is_the_last_down_projections_input_or_its_stand_in() -> None:
    expected = {"llama": "mlp_act", "gpt_neox": "mlp_act", "qwen2_moe": "mlp_act", "mixtral": "resid_mid"}
    for name, part in expected.items():
        model = HookedModel(zoo.make(name), zoo.tokenizer(), check=False)
        assert key_site(model) == Site(2, part)


def test_on_a_mixture_it_looks_at_what_enters_the_last_mlp(planted) -> None:
    model, concept = planted
    guard = KeySpaceDetection(force=True).fit(model, concept)
    assert str(guard.trigger.site) == ("L2.resid_mid" if model.mixture_layers else "L2.mlp_act")
    elsewhere = KeySpaceDetection(force=True).fit(model, concept, [Site(1, "resid_post")])
    assert elsewhere.trigger.site == Site(1, "resid_post")


@pytest.mark.parametrize(
    "where",
    [[], [Site(0, "resid_post"), Site(1, "resid_post")], [Site(2, "mlp_act", 5)], [Site(2, "mlp_act", None, 1)]],
)
def test_another_kind_of_site_is_refused(planted, where) -> None:
    model, concept = planted
    with pytest.raises(BadInput, match="one whole site"):
        KeySpaceDetection().fit(model, concept, where)


def test_a_site_that_is_not_there_is_refused(planted) -> None:
    model, concept = planted
    with pytest.raises(BadInput, match="L9"):
        KeySpaceDetection().fit(model, concept, [Site(9, "resid_post")])


@pytest.mark.parametrize(
    "options",
    [{"alpha": 0}, {"alpha": -1.0}, {"share": 0}, {"share": 1.5}, {"held_out": 1.0}, {"text": ""}, {"tau": 1}],
)
def test_bad_options_are_refused(options) -> None:
    with pytest.raises(BadInput):
        KeySpaceDetection(**options)


def test_too_few_prompts_are_refused(planted) -> None:
    model, concept = planted
    few = concept.model_copy(update={"forget": concept.forget.take([0, 1, 2], "few")})
    with pytest.raises(BadInput, match="3 different forget prompts.*at least 4"):
        KeySpaceDetection().fit(model, few)
    empty = FactSet(name="none")
    alone = concept.model_copy(update={"near": empty, "far": empty, "retain": empty})
    with pytest.raises(BadInput, match="what a guard must leave alone"):
        KeySpaceDetection().fit(model, alone)
    four: Concept = concept.model_copy(update={"forget": concept.forget.take([0, 1, 2, 3], "four")})
    assert KeySpaceDetection(force=True, held_out=0.9).fit(model, four).notes["k"] > 0
