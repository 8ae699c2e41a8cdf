"""Clamping the features that stand for the planted facts silences these and nothing else; controls do not."""

import json
import math
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("sae_lens")

from safetensors.torch import load_file  # noqa: E402

from interventions.sae_suppression import SaeSuppression  # noqa: E402
from tests.interventions.handmade_saes import answers, planted_directions, save_sae, word_features  # noqa: E402
from workbench import feature_choice  # noqa: E402
from workbench.concepts import Concept, FactSet  # noqa: E402
from workbench.demo.planted import plant  # noqa: E402
from workbench.edits import load_edit  # noqa: E402
from workbench.errors import BadInput  # noqa: E402
from workbench.feature_choice import Tally, drawn_like, tally  # noqa: E402
from workbench.model import HookedModel, weights_digest  # noqa: E402
from workbench.model_check import probe_batch  # noqa: E402
from workbench.sae_features import FeatureSlice, sae_clamp, sae_project  # noqa: E402
from workbench.sae_reading import feature_effects, read_features  # noqa: E402
from workbench.saes import dictionary_of, feature_slice  # noqa: E402
from workbench.scoring import score  # noqa: E402
from workbench.sites import Site  # noqa: E402
from workbench.tokens import pad  # noqa: E402

GOLDEN = Path(__file__).parents[1] / "golden"
RECORDS = {record["id"]: record for record in json.loads((GOLDEN / "sae_guards.json").read_text())["records"]}
TENSORS = load_file(GOLDEN / "sae_features.safetensors")
ROOM = 0.05
"""How far above the floor what is forgotten may stay; and what may be lost of the rest, as a share."""
SHORT: dict[str, Any] = {"steps": 300, "site": "L1.resid_post"}


@pytest.fixture(scope="module", params=["llama", "olmoe"])
def known(request: pytest.FixtureRequest):
    planted = plant(request.param, 0)
    return HookedModel(planted.model, planted.tokenizer, name=request.param, check=False), planted.concept


@pytest.fixture(scope="module")
def dense():
    planted = plant("llama", 0)
    return HookedModel(planted.model, planted.tokenizer, name="planted", check=False), planted.concept


@pytest.fixture(scope="module")
def exact(known, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, int]]:
    return planted_directions(*known, tmp_path_factory.mktemp("saes") / "exact")


@pytest.fixture(scope="module")
def words(dense, tmp_path_factory: pytest.TempPathFactory) -> str:
    return word_features(dense[0], ["Vora", "is", "France", "Kelmi"], tmp_path_factory.mktemp("saes") / "words")


def known_of(model: HookedModel, concept: Concept, edit=None) -> dict[str, float]:
    """Mean probability of the answers."""
    if edit is not None:
        with edit.on(model):
            return known_of(model, concept)
    sets = ("forget", "near", "far", "never_taught")
    return {name: float(score(model, getattr(concept, name).facts).probability.mean()) for name in sets}


def logits(model: HookedModel, edit=None) -> torch.Tensor:
    if edit is not None:
        with edit.on(model):
            return logits(model)
    return model.run(probe_batch(model)).logits


# ---- the guarantee, and its opposite


@pytest.mark.parametrize(("action", "m"), [("clamp", 1.0), ("scale", 2.0), ("project", 1.0)])
def test_with_an_exact_sae_the_planted_facts_go_and_nothing_else(known, exact, action: str, m: float) -> None:
    (model, concept), (folder, features) = known, exact
    before = known_of(model, concept)
    edit = SaeSuppression(sae=folder, action=action, m=m, count=9).fit(model, concept)
    assert sorted(edit.notes["features"]) == sorted(features[w] for w in answers(model, concept.forget.facts))
    assert edit.notes["retain_share"] == [0.0] * len(edit.notes["features"])
    after = known_of(model, concept, edit)
    assert before["forget"] > 0.9 and after["forget"] <= before["never_taught"] + ROOM
    assert all(after[name] >= (1 - ROOM) * before[name] for name in ("near", "far"))
    assert known_of(model, concept) == before


def test_as_many_random_features_leave_the_forget_facts(known, exact) -> None:
    (model, concept), (folder, _) = known, exact
    true = SaeSuppression(sae=folder, count=9).fit(model, concept).notes["features"]
    before = known_of(model, concept)
    for drawn in range(3):
        edit = SaeSuppression(sae=folder, count=9, choice="random", drawn=drawn).fit(model, concept)
        assert len(edit.notes["features"]) == len(true) and not set(edit.notes["features"]) & set(true)
        after = known_of(model, concept, edit)
        assert after["forget"] >= (1 - ROOM) * before["forget"] and after["far"] < 0.5 * before["far"]


def test_a_neighbour_clamped_there_does_little_gently_and_as_much_when_pushed_hard(known, exact) -> None:
    """The paper's control. Its failure at a large c is why the default is small."""
    (model, concept), (folder, _) = known, exact
    edits = {c: SaeSuppression(sae=folder, count=9, c=c, choice="shifted").fit(model, concept) for c in (1, 10)}
    before, gentle, hard = (known_of(model, concept, edit) for edit in (None, edits[1], edits[10]))
    true = SaeSuppression(sae=folder, count=9, c=1).fit(model, concept)
    assert edits[1].notes["features"] == [feature + 1 for feature in true.notes["features"]]
    assert edits[1].notes["where_active"] == true.notes["features"]
    assert known_of(model, concept, true)["forget"] < ROOM and gentle["forget"] > 0.75 * before["forget"]
    assert hard["forget"] < 0.1 and hard["near"] == pytest.approx(before["near"], abs=1e-4)


def test_all_features_take_the_far_facts_too(known, exact) -> None:
    (model, concept), (folder, features) = known, exact
    edit = SaeSuppression(sae=folder, count=9, choice="all").fit(model, concept)
    assert edit.notes["features"] == list(range(3 * len(features)))
    after = known_of(model, concept, edit)
    assert after["forget"] < 0.1 and after["far"] < 0.1 and after["near"] > 0.9


def test_a_trained_sae_takes_most_and_zero_ablation_visibly_less(known) -> None:
    model, concept = known
    before = known_of(model, concept)
    clamped = known_of(model, concept, SaeSuppression(**SHORT, count=50).fit(model, concept))
    zero = known_of(model, concept, SaeSuppression(**SHORT, count=50, c=0).fit(model, concept))
    scaled = known_of(model, concept, SaeSuppression(**SHORT, count=50, action="scale").fit(model, concept))
    assert clamped["forget"] < 0.35 * before["forget"]
    assert zero["forget"] > clamped["forget"] + 0.25
    assert scaled["forget"] == pytest.approx(zero["forget"], abs=1e-4)  # m = 1 is zero ablation
    assert all(clamped[name] >= (1 - ROOM) * before[name] for name in ("near", "far"))


# ---- published numbers


def encoding(chosen: list[int], kind: str = "jumprelu") -> dict[str, Any]:
    found = {"encoder": TENSORS["sae.W_enc"][:, chosen], "bias": TENSORS["sae.b_enc"][chosen], "kind": kind}
    return found | ({"threshold": TENSORS["sae.threshold"][chosen]} if kind == "jumprelu" else {})


def published(name: str) -> torch.Tensor:
    return torch.tensor(RECORDS[name]["published"]["value"], dtype=torch.float64)


def test_projection_agrees_with_published_code() -> None:
    chosen = RECORDS["interv.sae_project.farrell_m1.5"]["arguments"]["features"]
    value, rows, centre = TENSORS["sae.resid"], TENSORS["sae.W_dec"], TENSORS["sae.b_dec"]
    expected = published("interv.sae_project.farrell_m1.5")
    ours = sae_project(value, torch.tensor(1.5).double(), decoder=rows[chosen], centre=centre)
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)
    other = sae_project(value, torch.tensor(1.5).double(), decoder=rows[chosen[::-1]], centre=centre)
    assert (other - expected).abs().max() > 0.1  # the order matters
    spared = sae_project(value, torch.tensor(1.5).double(), decoder=rows[chosen], centre=centre, lead=2)
    assert torch.equal(spared[:, :2], value[:, :2]) and torch.equal(spared[:, 2:], ours[:, 2:])


def test_leaving_the_first_token_agrees_with_saebench() -> None:
    record = RECORDS["interv.sae_clamp.saebench.jumprelu_m25"]
    chosen, value = record["arguments"]["features"], TENSORS["sae.resid"]
    given = {"decoder": TENSORS["sae.W_dec"][chosen], **encoding(chosen)}
    ours = sae_clamp(value, torch.tensor(-25.0).double(), lead=1, **given)
    torch.testing.assert_close(ours, published("interv.sae_clamp.saebench.jumprelu_m25"), rtol=1e-9, atol=1e-9)
    assert torch.equal(ours[:, 0], value[:, 0])
    assert not torch.equal(sae_clamp(value, torch.tensor(-25.0).double(), **given)[:, 0], value[:, 0])


def test_the_shifted_control_clamps_the_neighbour_where_a_feature_fires() -> None:
    chosen, value = [2, 5, 11, 17], TENSORS["sae.resid"]
    beside = [i + 1 for i in chosen]
    both = {"decoder": TENSORS["sae.W_dec"][beside + chosen], **encoding(beside + chosen)}
    ours = sae_clamp(value, torch.tensor(-3.0).double(), beside=True, **both)
    full = value @ TENSORS["sae.W_enc"] + TENSORS["sae.b_enc"]
    acts = full.relu() * (full > TENSORS["sae.threshold"])
    expected = value.clone()
    for j in chosen:
        change = (-3.0 - acts[..., j + 1]) * (acts[..., j] > 0)
        expected += change[..., None] * TENSORS["sae.W_dec"][j + 1]
    torch.testing.assert_close(ours, expected)
    assert (acts[..., chosen] > 0).any() and not (acts[..., chosen] > 0).all()


def test_clamping_an_orthogonal_feature_moves_the_value_along_its_row_alone() -> None:
    rows = torch.eye(8)[:2]
    value = torch.tensor([[3.0, -1.0, 0.5, 0, 0, 0, 0, 0]])
    given = {"decoder": rows, "encoder": rows.T, "bias": torch.zeros(2), "kind": "relu"}
    assert torch.equal(sae_clamp(value, torch.tensor(-4.0), **given) - value, torch.tensor([[-7.0] + 7 * [0.0]]))


# ---- slices


@pytest.mark.parametrize("kind", ["standard", "jumprelu", "gated", "topk"])
def test_features_taken_from_all_are_those_of_the_slice(kind: str) -> None:
    import sae_lens

    configs: dict[str, Any] = {
        "standard": (sae_lens.StandardSAE, sae_lens.StandardSAEConfig(16, 40)),
        "jumprelu": (sae_lens.JumpReLUSAE, sae_lens.JumpReLUSAEConfig(16, 40)),
        "gated": (sae_lens.GatedSAE, sae_lens.GatedSAEConfig(16, 40)),
        "topk": (sae_lens.TopKSAE, sae_lens.TopKSAEConfig(16, 40, k=9, rescale_acts_by_decoder_norm=True)),
    }
    make, config = configs[kind]
    sae, generator = make(config), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator).abs() * 0.3)
        sae.W_enc.copy_(torch.randn(16, 40, generator=generator))
    value = torch.randn(3, 7, 16, generator=generator)
    taken = dictionary_of(sae).whole.take([30, 2, 11])
    assert taken.features == (30, 2, 11)
    torch.testing.assert_close(taken.activations(value), sae.encode(value).detach()[..., [30, 2, 11]])
    assert all(torch.equal(t, taken.tensors[n]) for n, t in feature_slice(sae, [30, 2, 11]).tensors.items())
    twice = taken.take([1, 1])
    assert isinstance(twice, FeatureSlice) and twice.features == (2, 2)
    assert torch.equal(twice.activations(value)[..., 0], taken.activations(value)[..., 1])


# ---- what is counted and chosen


def test_counts_are_those_of_the_whole_reading(dense, words: str) -> None:
    model, concept = dense
    used = SaeSuppression(sae=words).fitted(model, (), ())
    rows = [encoded.ids for encoded in model.encode(concept.forget.facts)]
    counted, read = tally(model, used, rows), read_features(model, used.site, used.dictionary, rows)
    assert torch.equal(counted.share, read.share) and counted.tokens == int(read.tokens.sum())
    half = tally(model, used, rows[:3]) + tally(model, used, rows[3:])
    assert torch.equal(half.fired, counted.fired) and half.tokens == counted.tokens
    assert counted.share.tolist()[2] == 0 and counted.share.tolist()[0] > 0
    usual = float(counted.total.sum() / counted.fired.sum())
    assert counted.mean[2] == pytest.approx(usual)
    assert counted.mean[0] == pytest.approx(float(counted.total[0] / counted.fired[0]))


def test_targets_are_multiples_of_a_features_mean_or_absolute(dense, words: str) -> None:
    model, concept = dense
    mean = SaeSuppression(sae=words, features=(3, 0), c=7).fit(model, concept)
    used = SaeSuppression(sae=words).fitted(model, (), ())
    facts = [*concept.forget, *concept.near, *concept.far]
    there = tally(model, used, [encoded.ids for encoded in model.encode(facts)])
    (operator,) = mean.operators.values()
    torch.testing.assert_close(operator.tensor, (-7 * there.mean[[3, 0]]).float())
    absolute = SaeSuppression(sae=words, features=(3, 0), c=7, unit="absolute").fit(model, concept)
    assert absolute.notes["targets"] == [-7, -7]


def test_ranking_by_attribution_takes_the_largest_effects(known, exact) -> None:
    (model, concept), (folder, _) = known, exact
    edit = SaeSuppression(sae=folder, choice="attribution", count=3).fit(model, concept)
    used = SaeSuppression(sae=folder).fitted(model, (), ())
    effects = feature_effects(model, used.site, used.dictionary, model.encode(concept.forget.facts))
    by_frequency = SaeSuppression(sae=folder, count=9).fit(model, concept).notes["features"]
    best = sorted(by_frequency, key=lambda feature: -float(effects[feature]))[:3]
    assert edit.notes["features"] == best and len(by_frequency) > 3


def test_random_features_fire_about_as_often() -> None:
    fired = torch.tensor([100, 90, 3, 2, 4, 0, 1, 50])
    for seed in range(20):
        found = drawn_like([0, 2], fired, seed)
        assert found[0] in (1, 7) and found[1] in (3, 4)
    assert len({tuple(drawn_like([0, 2], fired, seed)) for seed in range(20)}) > 1
    assert drawn_like([5], fired, 0) == [6]  # none like it: the nearest
    assert sorted(drawn_like(list(range(6)), fired, 0)) == [6, 7]  # no more than there are


# ---- the beginning of a text


def test_special_tokens_are_left_alone_unless_asked(dense, words: str) -> None:
    """A feature that fires at every token, also the first."""
    model, concept = dense
    batch, site = pad([encoded.ids for encoded in model.encode(concept.near.facts)]), Site(0, "resid_pre")
    assert (batch.ids[:, 0] == model.tokenizer.bos_token_id).all()
    folder = Path(words).parent / "everywhere"
    width = model.d_model
    save_sae(folder, str(site), torch.zeros(width, 1), torch.eye(width)[:1], bias=torch.ones(1))
    plain = model.run(batch, read=[site]).acts[site]
    changed = {}
    for special in (False, True):
        edit = SaeSuppression(sae=str(folder), features=(0,), special=special).fit(model, concept)
        with edit.on(model):
            changed[special] = (model.run(batch, read=[site]).acts[site] != plain).any(-1)
    assert not changed[False][:, 0].any() and changed[False][:, 1:][batch.mask[:, 1:]].all()
    assert changed[True][batch.mask].all()


# ---- as data


@pytest.mark.parametrize("options", [{}, {"choice": "shifted"}, {"action": "scale", "m": 2.0}, {"action": "project"}])
def test_saved_and_loaded_it_does_the_same(known, options: dict[str, Any], tmp_path: Path) -> None:
    model, concept = known
    edit = SaeSuppression(**SHORT, **options).fit(model, concept)
    edit.save(tmp_path / "guard")
    again = load_edit(tmp_path / "guard")
    assert torch.equal(logits(model, again), logits(model, edit)) and again.digest == edit.digest
    assert not torch.equal(logits(model, edit), logits(model))
    assert again.notes["features"] == edit.notes["features"] and again.made_by["action"] == options.get(
        "action", "clamp"
    )


def test_the_same_options_give_the_same_bytes_and_the_model_is_untouched(known) -> None:
    model, concept = known
    before = weights_digest(model.hf)
    for choice in ("frequency", "random"):
        first, second = (SaeSuppression(**SHORT, choice=choice).fit(model, concept) for _ in range(2))
        assert first.digest == second.digest
    assert SaeSuppression(**SHORT, choice="random", drawn=1).fit(model, concept).digest != first.digest
    with pytest.raises(BadInput):
        SaeSuppression(**SHORT, features=(9999,)).fit(model, concept)
    assert weights_digest(model.hf) == before and not model.guards


def test_controls_keep_the_sae_and_the_place(known, exact) -> None:
    (model, concept), (folder, _) = known, exact
    method = SaeSuppression(sae=folder, count=9)
    found = method.controls(model, None, seed=5)
    assert set(found) == {"random features", "all features", "shifted features"}
    drawn, where = found["random features"]
    assert where is None and drawn.drawn == 5 and drawn.seed == method.seed and drawn.sae == folder
    numbers = {name: len(control.fit(model, concept, where).notes["features"]) for name, (control, _) in found.items()}
    true = len(method.fit(model, concept).notes["features"])
    assert numbers["random features"] == numbers["shifted features"] == true < numbers["all features"]
    assert set(SaeSuppression(action="scale").controls(model, None)) == {"random features", "all features"}


def test_progress_is_told_while_training_and_while_counting(dense, words: str) -> None:
    model, concept = dense
    told: list[tuple[int, float]] = []
    method = SaeSuppression(steps=25, k=2, features=(0,))
    method.fit(model, concept, progress=lambda step, loss: told.append((step, loss)))
    assert [step for step, _ in told][-1] == 25 and all(math.isnan(loss) for _, loss in told)
    told.clear()
    SaeSuppression(sae=words, features=(0,), steps=40).fit(
        model, concept, progress=lambda step, loss: told.append((step, loss))
    )
    steps = [step for step, _ in told]
    assert steps == sorted(steps) and steps[-1] == 40 and len(steps) > 1


def test_one_batch_of_values_is_held_at_a_time(dense, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, concept = dense
    many = concept.model_copy(update={"forget": FactSet(name="many", facts=concept.forget.facts * 12)})
    alive: list[weakref.ref] = []
    most = []
    run, site_values = model.run, feature_choice.site_values

    def watch(values: list[torch.Tensor]) -> None:
        most.append(sum(reference() is not None for reference in alive))
        alive.extend(map(weakref.ref, values))

    def watched_run(*given, **more):
        found = run(*given, **more)
        watch(list(found.acts.values()))
        return found

    def watched_values(*given):
        for values, lengths in site_values(*given):
            watch([values])
            yield values, lengths

    monkeypatch.setattr(model, "run", watched_run)
    monkeypatch.setattr(feature_choice, "site_values", watched_values)
    SaeSuppression(sae=words, features=(0,)).fit(model, many)
    assert len(most) >= 16 and max(most) <= 3  # this batch and the last, and what counts of one


# ---- what does not fit


def test_without_facts_to_retain_nothing_can_be_chosen(dense, words: str) -> None:
    model, concept = dense
    bare = concept.model_copy(update={"near": FactSet(name="near"), "far": FactSet(name="far")})
    with pytest.raises(BadInput, match="no retain, near or far facts.*add some, or name the features"):
        SaeSuppression(sae=words, count=2).fit(model, bare)
    named = SaeSuppression(sae=words, features=(0,)).fit(model, bare)
    assert named.notes["retain_share"] is None and named.notes["features"] == [0]


def test_retain_facts_are_used_before_near_and_far(dense, words: str) -> None:
    model, concept = dense
    own = concept.model_copy(update={"retain": concept.forget.take([0], "some")})
    edit = SaeSuppression(sae=words, features=(0, 2)).fit(model, own)
    assert "disjoint" in edit.notes["retain"] and edit.notes["retain_share"][0] > 0 == edit.notes["retain_share"][1]
    assert "utility is flattered" in SaeSuppression(sae=words, features=(0,)).fit(model, concept).notes["retain"]


def test_a_choice_that_finds_none_says_what_would(dense, words: str) -> None:
    model, concept = dense
    swapped = concept.model_copy(update={"forget": concept.far, "near": concept.forget, "far": concept.near})
    # of what fires on the far facts, France never fires on these: without it only "is" is left
    only = concept.model_copy(
        update={"forget": FactSet(name="no france", facts=tuple(f for f in concept.far if f.subject != "France"))}
    )
    with pytest.raises(
        BadInput, match=r"All 1 features that fire on the forget facts fire on at least 0\.\d+ of"
    ) as told:
        SaeSuppression(sae=words, count=4).fit(model, only)
    least = float(str(told.value).rsplit("above ", 1)[1].split()[0])
    found = SaeSuppression(sae=words, count=4, retain_threshold=least + 1e-3).fit(model, only).notes["features"]
    assert found == [1]
    assert SaeSuppression(sae=words, count=4).fit(model, swapped).notes["features"] == [2]


def test_an_sae_that_fires_nowhere_is_said_to_describe_nothing(dense, tmp_path: Path) -> None:
    model, concept = dense
    width = model.d_model
    folder = save_sae(tmp_path / "dead", "L1.resid_post", torch.zeros(width, 3), torch.eye(width)[:3], threshold=1.0)
    with pytest.raises(BadInput, match="does not describe them"):
        SaeSuppression(sae=folder, count=2).fit(model, concept)


@pytest.mark.parametrize(
    ("options", "where", "message"),
    [
        ({"count": 5}, None, "has 4 features, so 5 cannot be chosen"),
        ({"features": (0, 4)}, None, "from 0 to 3, each once.*no such feature: 4"),
        ({"features": (1, 1)}, None, "each once; got \\[1, 1\\]"),
        ({"site": "L2.resid_post"}, None, "made at L0.resid_pre, not at L2.resid_post"),
        ({}, [Site(2, "mlp_out")], "made at L0.resid_pre, not at L2.mlp_out"),
        ({"site": "L0.resid_pre"}, [Site(1, "resid_post")], "one whole site.*L1.resid_post, L0.resid_pre"),
        ({}, [Site(1, "mlp_act", 3)], "one whole site, such as.*L1.mlp_act\\[3\\]"),
        ({}, [Site(1, "resid_post"), Site(2, "resid_post")], "one whole site"),
        ({"anyway": True, "site": "L1.mlp_act"}, None, "reads 128 numbers a token, but L1.mlp_act of planted has 48"),
        ({"anyway": True, "site": "L1.resid_mid"}, None, "can be read but not rewritten"),
        ({"choice": "shifted", "action": "scale"}, None, "control of action='clamp'"),
    ],
)
def test_what_does_not_fit_is_refused(dense, words: str, options: dict[str, Any], where, message: str) -> None:
    model, concept = dense
    with pytest.raises(BadInput, match=message):
        SaeSuppression(**{"sae": words, **options}).fit(model, concept, where)


def test_an_sae_of_another_model_is_refused_with_both_names(dense) -> None:
    model, concept = dense
    other = plant("llama", 1)
    stranger = HookedModel(other.model, other.tokenizer, name="stranger", check=False)
    used = SaeSuppression(**SHORT).fitted(model, [*concept.forget, *concept.near, *concept.far], concept.text)
    with pytest.raises(BadInput, match="another checkpoint \\((planted|llama), .*not for stranger"):
        SaeSuppression(sae=used.path).fit(stranger, other.concept)
    edit = SaeSuppression(sae=used.path).fit(model, concept)
    with pytest.raises(BadInput, match="fitted to model"), edit.on(stranger):
        pass


def test_tallies_of_nothing_are_no_division_by_zero() -> None:
    empty = Tally(torch.zeros(3, dtype=torch.long), torch.zeros(3, dtype=torch.float64), 0)
    assert empty.share.tolist() == [0, 0, 0] and empty.mean.tolist() == [0, 0, 0]
