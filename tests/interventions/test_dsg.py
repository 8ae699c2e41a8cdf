"""The guard acts in texts about the planted people and in no other, as its authors' code does, and padding is seen."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("sae_lens")

from safetensors.torch import load_file  # noqa: E402

from interventions.dsg import Dsg  # noqa: E402
from tests.interventions.handmade_saes import answers, planted_directions, save_sae, word_features  # noqa: E402
from workbench.concepts import Concept, FactSet  # noqa: E402
from workbench.demo.planted import plant  # noqa: E402
from workbench.edits import HookEdit, load_edit  # noqa: E402
from workbench.errors import BadInput  # noqa: E402
from workbench.feature_choice import guard_choice, guard_scores  # noqa: E402
from workbench.model import HookedModel, weights_digest  # noqa: E402
from workbench.sae_features import sae_clamp_all  # noqa: E402
from workbench.sae_trigger import sae_share, share_so_far  # noqa: E402
from workbench.scoring import score  # noqa: E402
from workbench.sites import Site  # noqa: E402
from workbench.tokens import Batch, encode_text, pad  # noqa: E402
from workbench.triggers import Trigger  # noqa: E402

GOLDEN = Path(__file__).parents[1] / "golden"
RECORDS = {record["id"]: record for record in json.loads((GOLDEN / "sae_guards.json").read_text())["records"]}
TENSORS = load_file(GOLDEN / "sae_features.safetensors")
ROOM = 0.05
PEOPLE = ("Vora", "Kelmi", "Tizo", "Brama")
WORDS = [*PEOPLE, "is", "France", "Sulen", "house", "river"]
BENIGN = "We all know the river . The man of the old house by the river . "


@pytest.fixture(scope="module", params=["llama", "olmoe"])
def known(request: pytest.FixtureRequest):
    planted = plant(request.param, 0)
    return HookedModel(planted.model, planted.tokenizer, name=request.param, check=False), planted.concept


@pytest.fixture(scope="module")
def words(known, tmp_path_factory: pytest.TempPathFactory) -> str:
    return word_features(known[0], WORDS, tmp_path_factory.mktemp("saes") / "words")


@pytest.fixture(scope="module")
def exact(known, tmp_path_factory: pytest.TempPathFactory) -> str:
    return planted_directions(*known, tmp_path_factory.mktemp("saes") / "exact")[0]


def known_of(model: HookedModel, concept: Concept, edit: HookEdit | None = None) -> dict[str, float]:
    """Mean probability of the answers."""
    if edit is not None:
        with edit.on(model):
            return known_of(model, concept)
    sets = ("forget", "near", "far", "never_taught")
    return {name: float(score(model, getattr(concept, name).facts).probability.mean()) for name in sets}


def asked(model: HookedModel, texts: list[str]) -> Batch:
    return pad([encode_text(model.tokenizer, text) for text in texts])


def fires(model: HookedModel, edit: HookEdit, texts: list[str]) -> list[bool]:
    batch = asked(model, texts)
    assert isinstance(edit.trigger, Trigger)
    told = edit.trigger.told(model, batch)
    return [bool(row[last]) for row, last in zip(told, batch.last, strict=True)]


# ---- the guarantee, and its opposite


@pytest.mark.parametrize("which", ["exact", "words"])
def test_the_planted_facts_go_and_nothing_else(known, which: str, request: pytest.FixtureRequest) -> None:
    model, concept = known
    before = known_of(model, concept)
    edit = Dsg(sae=request.getfixturevalue(which), count=9, ratio_percentile=60).fit(model, concept)
    after = known_of(model, concept, edit)
    assert before["forget"] > 0.9 and after["forget"] <= before["never_taught"] + ROOM
    assert all(after[name] >= (1 - ROOM) * before[name] for name in ("near", "far"))
    assert edit.notes["trigger_rate"] == {"forget": 1.0, "retain": 0.0}
    assert edit.notes["tau"] == 0 and edit.notes["rho"]["retain"]["max"] == 0
    assert known_of(model, concept) == before


def test_the_features_are_those_of_the_people(known, words: str) -> None:
    model, concept = known
    edit = Dsg(sae=words, count=9, ratio_percentile=60).fit(model, concept)
    assert sorted(edit.notes["features"]) == [0, 1, 2, 3]
    assert len(answers(model, list(concept.forget))) > 4
    rho = edit.notes["rho"]["forget"]
    assert rho["min"] == rho["max"] == pytest.approx(1 / 5)  # one of "The colour of Vora is"


def test_random_features_leave_the_facts(known, exact: str) -> None:
    model, concept = known
    true = Dsg(sae=exact, count=9, ratio_percentile=60).fit(model, concept).notes["features"]
    edit = Dsg(sae=exact, count=9, ratio_percentile=60, choice="random").fit(model, concept)
    assert len(edit.notes["features"]) == len(true) and not set(edit.notes["features"]) & set(true)
    before, after = known_of(model, concept), known_of(model, concept, edit)
    assert after["forget"] >= (1 - ROOM) * before["forget"]


def test_a_trained_sae_at_a_residual_site_takes_most(known) -> None:
    model, concept = known
    before = known_of(model, concept)
    edit = Dsg(site="L1.resid_post", steps=300, count=50).fit(model, concept)
    after = known_of(model, concept, edit)
    assert after["forget"] < 0.5 * before["forget"]
    assert all(after[name] >= (1 - ROOM) * before[name] for name in ("near", "far"))
    assert edit.notes["trigger_rate"]["retain"] <= 0.05 < 0.5 < edit.notes["trigger_rate"]["forget"]


# ---- published numbers


@pytest.mark.parametrize("name", ["interv.sae_clamp.dsg_t0.3", "interv.sae_clamp.dsg_t0.9"])
def test_trigger_and_clamp_agree_with_published_code(name: str) -> None:
    arguments, value = RECORDS[name]["arguments"], TENSORS["sae.resid"]
    chosen, tau = arguments["features"], arguments["activation_threshold"]
    encoding = {"encoder": TENSORS["sae.W_enc"][:, chosen], "bias": TENSORS["sae.b_enc"][chosen], "kind": "relu"}
    mask = torch.ones(value.shape[:2], dtype=torch.bool)
    told = sae_share(value, mask, tau=tau, lead=1, count_lead=True, **encoding)[:, -1]
    minus = torch.tensor(-arguments["multiplier"]).double()
    clamped = sae_clamp_all(value, minus, decoder=TENSORS["sae.W_dec"][chosen], lead=1, **encoding)
    ours = torch.where(told[:, None, None], clamped, value)
    published = torch.tensor(RECORDS[name]["published"]["value"], dtype=torch.float64)
    torch.testing.assert_close(ours, published, rtol=1e-9, atol=1e-9)
    assert told.tolist() == 3 * [tau < 5 / 6]  # active everywhere but at the first of six tokens
    assert sae_share(value, mask, tau=tau, lead=1, **encoding)[:, -1].all()  # not counted, rho is 1


def test_scores_are_squared_shares_and_their_ratio() -> None:
    wanted, unwanted, ratio = guard_scores(torch.tensor([0.2]).double(), torch.tensor([0.01]).double())
    assert (float(wanted), float(unwanted), float(ratio)) == pytest.approx((0.04, 0.0001, 400))


def test_selection_takes_what_lies_within_all_percentiles() -> None:
    forget = torch.tensor([0.0, 0.5, 0.4, 0.3, 0.2, 0.1]).double()
    retain = torch.tensor([0.0, 0.5, 0.2, 0.0, 0.01, 0.3]).double()
    # ratios: 0, 1, 4, huge, 400, 1/9
    assert guard_choice(forget, retain, 9, forget_percentile=0.0, ratio_percentile=50.0) == [2, 3, 4]
    assert guard_choice(forget, retain, 2, forget_percentile=0.0, ratio_percentile=50.0) == [2, 3]
    assert guard_choice(forget, retain, 9, forget_percentile=0.0, ratio_percentile=80.0) == [3, 4]
    assert guard_choice(forget, retain, 9, forget_percentile=60.0, ratio_percentile=50.0) == [2, 3]
    assert guard_choice(forget, retain, 9, retain_percentile=50.0, ratio_percentile=50.0) == [3, 4]
    assert guard_choice(forget, retain, 9, ratio_percentile=0.0) == [1, 2, 3, 4, 5]  # never one that never fires


# ---- rho


ON = {"encoder": torch.ones(1, 1), "bias": torch.zeros(1), "kind": "relu"}


def lamps(*rows: str) -> tuple[torch.Tensor, torch.Tensor]:
    """`#` active, `.` not, end of the row is padding (on which the feature is active)."""
    longest = max(map(len, rows))
    value = torch.tensor([[1.0 if c == "#" else -1.0 for c in row] + [1.0] * (longest - len(row)) for row in rows])
    return value[..., None], torch.tensor([[i < len(row) for i in range(longest)] for row in rows])


def test_rho_is_the_share_of_the_text_so_far() -> None:
    value, mask = lamps("#..#", "##")
    share = share_so_far(value, mask, **ON)
    torch.testing.assert_close(share[0], torch.tensor([1, 1 / 2, 1 / 3, 2 / 4]))
    torch.testing.assert_close(share[1, :2], torch.tensor([1.0, 1.0]))
    assert share_so_far(value, mask, lead=1, **ON)[0].tolist() == pytest.approx([0, 0, 0, 1 / 3])
    assert share_so_far(value, mask, lead=1, count_lead=True, **ON)[0].tolist() == pytest.approx([0, 0, 0, 1 / 4])
    assert sae_share(value, mask, tau=0.5, **ON)[0].tolist() == [True, False, False, False]


def test_the_windowed_rho_is_the_largest_share_in_a_row_of_tokens() -> None:
    value, mask = lamps("#..##...", "##", "..#")
    share = share_so_far(value, mask, window=3, **ON)
    expected = [1, 1 / 2, 1 / 3, 1 / 3, 2 / 3, 2 / 3, 2 / 3, 2 / 3]
    torch.testing.assert_close(share[0], torch.tensor(expected))
    assert share[1, 1] == 1 and share[2, 2] == pytest.approx(1 / 3)
    alone = share_so_far(*lamps("##"), window=3, **ON)
    assert torch.equal(alone[0], share[1, :2])  # whoever shares the batch
    led = share_so_far(*lamps("###.#."), window=2, lead=1, **ON)
    torch.testing.assert_close(led[0], torch.tensor([0.0, 1, 1, 1, 1, 1]))
    late = share_so_far(*lamps("#...##"), window=2, lead=1, **ON)
    torch.testing.assert_close(late[0], torch.tensor([0, 0, 0, 0, 0.5, 1]))


def test_benign_padding_dilutes_the_published_rho_and_not_the_windowed_one(known, words: str) -> None:
    """With "is" among the features tau is a fifth on retain; a question has two fifths, a padded one much less."""
    model, concept = known
    given: dict[str, Any] = {"sae": words, "features": (0, 1, 2, 3, 4)}
    plain, windowed = (Dsg(**given, window=window).fit(model, concept) for window in (0, 5))
    assert plain.notes["tau"] == windowed.notes["tau"] == pytest.approx(0.2)
    questions = [fact.prompt for fact in concept.forget]
    padded = [BENIGN + prompt for prompt in questions]
    retained = [BENIGN + fact.prompt for fact in (*concept.near, *concept.far)]
    assert all(fires(model, plain, questions)) and all(fires(model, windowed, questions))
    assert not any(fires(model, plain, padded)) and all(fires(model, windowed, padded))
    assert not any(fires(model, windowed, retained))
    behind = [prompt + " . " + BENIGN for prompt in questions]
    assert not any(fires(model, plain, behind)) and all(fires(model, windowed, behind))


def test_only_active_tokens_change_and_there_all_features(known, words: str) -> None:
    model, concept = known
    site, edit = Site(0, "resid_pre"), Dsg(sae=words, count=9, ratio_percentile=60, c=3).fit(known[0], concept)
    batch = asked(model, ["The colour of Vora is", "The colour of Sulen is"])
    plain = model.run(batch, read=[site]).acts[site]
    with edit.on(model):
        change = model.run(batch, read=[site]).acts[site] - plain
    at = 1 + ["The", "colour", "of", "Vora"].index("Vora")
    assert change.abs().amax(-1).gt(0).nonzero().tolist() == [[0, at]]
    (operator,) = edit.operators.values()
    rows, targets = operator.tensors["decoder"], torch.tensor(edit.notes["targets"])
    active = rows @ torch.linalg.pinv(rows.T @ rows) @ change[0, at]  # coefficients of the rows
    vora = edit.notes["features"].index(0)
    assert float(active[vora]) == pytest.approx(float(targets[vora]) * 4 / 3, rel=1e-3)  # minus what it was, too
    others = [i for i in range(len(targets)) if i != vora]
    torch.testing.assert_close(active[others], targets[others], rtol=1e-3, atol=1e-3)


def test_the_first_special_token_counts_only_when_asked(known, words: str) -> None:
    model, concept = known
    given: dict[str, Any] = {"sae": words, "features": (0, 1, 2, 3)}
    for counted, rho in ((False, 1 / 5), (True, 1 / 6)):
        edit = Dsg(**given, count_special=counted).fit(model, concept)
        assert edit.notes["rho"]["forget"]["median"] == pytest.approx(rho)
        assert edit.trigger.options["count_lead"] is counted and edit.trigger.options["lead"] == 1


def test_tau_is_the_percentile_over_the_retain_prompts(known, words: str) -> None:
    model, concept = known
    given: dict[str, Any] = {"sae": words, "features": (6,)}  # Sulen: a near person, in 2 of 16 retain prompts
    taus = {p: Dsg(**given, tau_percentile=p).fit(model, concept).notes["tau"] for p in (50, 87, 95, 100)}
    assert taus[50] == 0 and 0 < taus[87] < 0.2 and taus[95] == taus[100] == pytest.approx(0.2)
    edit = Dsg(**given, tau_percentile=50).fit(model, concept)
    assert edit.notes["trigger_rate"] == {"forget": 0.0, "retain": 2 / 16}


def test_it_is_tried_on_facts_that_it_has_not_seen(known, words: str) -> None:
    model, concept = known
    edit = Dsg(sae=words, count=9, ratio_percentile=60).fit(model, concept)
    held = edit.notes["held_out"]
    assert held["facts"] == [5, 8] and held["retain"] == 0 and held["forget"] == 1  # the same people in both halves
    apart = sorted(concept.forget, key=lambda fact: fact.subject in PEOPLE[:2])
    mixed = [apart[i // 2 + 5 * (i % 2)] for i in range(10)]  # so that a half has people of its own
    other = Dsg(sae=words, count=9, ratio_percentile=60).fit(
        model, concept.model_copy(update={"forget": FactSet(name="apart", facts=tuple(mixed))})
    )
    assert other.notes["held_out"]["forget"] < 1 and other.notes["trigger_rate"]["forget"] == 1
    few = concept.model_copy(update={"forget": concept.forget.take([0, 1, 2], "few")})
    notes = Dsg(sae=words, features=(0,)).fit(model, few).notes
    assert notes["held_out"] is None and "fewer than 4" in notes["why_not_held_out"]


# ---- as data


@pytest.mark.parametrize("window", [0, 3])
def test_saved_and_loaded_it_does_the_same_and_no_neighbour_changes_it(known, window: int, tmp_path: Path) -> None:
    model, concept = known
    edit = Dsg(site="L1.resid_post", steps=300, window=window).fit(model, concept)
    edit.save(tmp_path / "guard")
    again = load_edit(tmp_path / "guard")
    assert isinstance(again, HookEdit) and again.trigger is not None and again.digest == edit.digest
    facts = [*concept.forget, *concept.near, *concept.far]
    with edit.on(model):
        ours, alone = score(model, facts).logprob, torch.cat([score(model, [fact]).logprob for fact in facts])
    with again.on(model):
        theirs = score(model, facts).logprob
    assert torch.equal(ours, theirs) and not torch.equal(ours, score(model, facts).logprob)
    torch.testing.assert_close(ours, alone, rtol=1e-3, atol=1e-3)


def test_the_same_options_give_the_same_bytes_and_the_model_is_untouched(known, words: str) -> None:
    model, concept = known
    before = weights_digest(model.hf)
    digests = [Dsg(sae=words, count=9, ratio_percentile=60).fit(model, concept).digest for _ in range(2)]
    assert digests[0] == digests[1] and weights_digest(model.hf) == before and not model.guards
    with pytest.raises(BadInput):
        Dsg(sae=words, features=(99,)).fit(model, concept)
    assert weights_digest(model.hf) == before and not model.guards


def test_controls_are_random_features_and_every_text(known, words: str) -> None:
    model, concept = known
    found = Dsg(sae=words, count=9, ratio_percentile=60).controls(model, None, seed=3)
    assert set(found) == {"random features", "every text"} and found["random features"][0].drawn == 3
    always = found["every text"][0].fit(model, concept)
    assert always.trigger is None
    padded = [f.model_copy(update={"prompt": BENIGN + f.prompt}) for f in concept.forget]
    assert known_of(model, concept, always)["forget"] < 0.1
    with always.on(model):
        assert float(score(model, padded).probability.max()) < 0.1


def test_in_bfloat16_it_is_fitted_and_acts() -> None:
    planted = plant("llama", 0)
    model, concept = HookedModel(planted.model.bfloat16(), planted.tokenizer, check=False), planted.concept
    edit = Dsg(site="L1.resid_post", steps=100, count=50).fit(model, concept)
    assert edit.notes["trigger_rate"]["forget"] > edit.notes["trigger_rate"]["retain"]
    assert known_of(model, concept, edit)["forget"] < known_of(model, concept)["forget"] - 0.2


# ---- what does not fit


def test_what_does_not_fit_is_refused(known, words: str, tmp_path: Path) -> None:
    model, concept = known
    bare = concept.model_copy(update={"near": FactSet(name="near"), "far": FactSet(name="far")})
    with pytest.raises(BadInput, match="no retain, near or far facts"):
        Dsg(sae=words).fit(model, bare)
    with pytest.raises(BadInput, match="has 9 features, so 10 cannot be chosen"):
        Dsg(sae=words, count=10).fit(model, concept)
    with pytest.raises(BadInput, match="from 0 to 8"):
        Dsg(sae=words, features=(9,)).fit(model, concept)
    with pytest.raises(BadInput, match="made at L0.resid_pre, not at L2.mlp_out"):
        Dsg(sae=words, count=9).fit(model, concept, [Site(2, "mlp_out")])
    width = model.d_model
    dead = save_sae(tmp_path / "dead", "L1.resid_post", torch.zeros(width, 3), torch.eye(width)[:3], threshold=1.0)
    with pytest.raises(BadInput, match="does not describe them"):
        Dsg(sae=dead, count=2).fit(model, concept)


def test_a_choice_that_finds_none_says_what_would(known, words: str) -> None:
    """All that fires on the forget facts fires on retain, more than most features do."""
    model, concept = known
    only = concept.model_copy(
        update={"forget": FactSet(name="no france", facts=tuple(f for f in concept.far if f.subject != "France"))}
    )
    asked_for: dict[str, Any] = {"sae": words, "count": 9, "ratio_percentile": 0}
    with pytest.raises(BadInput, match=r"None of the 1 features .* above 88\.9 percent"):
        Dsg(**asked_for, retain_percentile=80).fit(model, only)
    assert Dsg(**asked_for, retain_percentile=100).fit(model, only).notes["features"] == [4]
