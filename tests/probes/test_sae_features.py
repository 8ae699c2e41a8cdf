"""Found features fire on the planted facts, ablating them silences these, and dealt facts find nothing special."""

import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

sae_lens = pytest.importorskip("sae_lens")

from interventions.concept_ablation import ConceptAblation  # noqa: E402
from probes.sae_features import SaeFeatures  # noqa: E402
from workbench.concepts import Fact, FactSet  # noqa: E402
from workbench.edits import HookEdit  # noqa: E402
from workbench.errors import BadInput  # noqa: E402
from workbench.feature_choice import Limits  # noqa: E402
from workbench.figures import alt_text, figure_of, table_of  # noqa: E402
from workbench.operators import Operator  # noqa: E402
from workbench.saes import feature_slice, load_sae  # noqa: E402
from workbench.scoring import score  # noqa: E402
from workbench.sites import Site  # noqa: E402
from workbench.trace import Trace  # noqa: E402

GOLDEN = Path(__file__).parents[1] / "golden"
SITE = Site(1, "resid_post")
SHORT: dict[str, Any] = {"steps": 300, "shuffles": 100}


def read(known, probe: SaeFeatures, **more: Any) -> Trace:
    concept = known.concept
    return probe.look(known.model, concept.forget, concept.near, concept.far, concept.text, **more)


def values(trace: Trace, measure: str) -> dict[int, float]:
    """Feature -> number."""
    picked = trace.pick("measure", measure)
    return dict(zip(map(int, picked.labels["feature"]), picked.values.tolist(), strict=True))


@pytest.fixture(scope="session")
def looked(dense) -> Trace:
    return read(dense, SaeFeatures(**SHORT))


@pytest.fixture(scope="session")
def trained(looked) -> str:
    """Folder of the SAE that was trained for `looked`."""
    return looked.notes["sae"]["path"]


# ---- published numbers


@pytest.mark.parametrize("threshold", ["0.01", "0.001"])
def test_selection_agrees_with_published_code(threshold: str) -> None:
    records = {r["id"]: r for r in json.loads((GOLDEN / "sae_features.json").read_text())["records"]}
    tensors = load_file(GOLDEN / "sae_features.safetensors")
    forget, retain = tensors["sae.forget_sparsity"], tensors["sae.retain_sparsity"]
    published = records[f"interv.sae_feature_selection.thr{threshold}"]["published"]["value"]
    assert Limits(retain_below=float(threshold)).found(forget, retain) == published
    assert Limits(retain_below=float(threshold), keep=1).found(forget, retain) == published[:1]


def test_both_thresholds_exclude_what_lies_on_them() -> None:
    forget, retain = torch.tensor([0.1, 0.2, 0.3, 0.0]), torch.tensor([0.0, 0.0, 0.01, 0.0])
    assert Limits(forget_above=0.1).found(forget, retain) == [1]
    assert Limits().found(forget, retain) == [1, 0]
    assert Limits(retain_below=0.02).found(forget, retain, torch.tensor([3.0, 1.0, 2.0, 9.0])) == [0, 2, 1]
    assert Limits(keep=1).share(forget, retain) == pytest.approx(0.2)


# ---- a dictionary written by hand: every number is known


WORDS = ("Vora", "France", "is", "Kelmi")


@pytest.fixture(scope="session")
def by_hand(dense, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Feature i fires on word i and nowhere else; the last one never."""
    model = dense.model
    ids = [model.tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in WORDS]
    table = model.hf.get_input_embeddings().weight.detach()
    # Solved, not the embeddings themselves: words that are no keys are not orthogonal to each other.
    detectors = torch.linalg.pinv(table)[:, ids]
    scores = table @ detectors
    assert all(scores[:, i].argmax() == token for i, token in enumerate(ids))
    sae = sae_lens.StandardSAE(sae_lens.StandardSAEConfig(model.d_model, 5, apply_b_dec_to_input=False))
    with torch.no_grad():
        sae.W_enc.zero_()
        sae.W_enc[:, :4] = detectors
        second = scores.topk(2, dim=0).values
        sae.b_enc[:4] = -second.mean(0)
        sae.b_enc[4] = -1
        sae.W_dec.normal_(generator=torch.Generator().manual_seed(0))
        sae.b_dec.zero_()
    folder = tmp_path_factory.mktemp("saes") / "by hand"
    sae.cfg.metadata.site = "embed"
    sae.save_model(folder)
    return folder


def share_of(known, word: str, sets: tuple[str, ...]) -> float:
    """Share of a word among the tokens that are not special, counted in the ids."""
    tokenizer = known.model.tokenizer
    (token,) = tokenizer(word, add_special_tokens=False)["input_ids"]
    ids = [i for name in sets for e in known.model.encode(getattr(known.concept, name).facts) for i in e.ids]
    counted = [i for i in ids if i not in tokenizer.all_special_ids]
    return counted.count(token) / len(counted)


def test_shares_are_those_of_the_words_that_the_features_stand_for(dense, by_hand: Path) -> None:
    trace = read(dense, SaeFeatures(sae=str(by_hand)))
    forget, retain = values(trace, "forget"), values(trace, "retain")
    for i, word in enumerate(WORDS):
        assert forget[i] == pytest.approx(share_of(dense, word, ("forget",)))
        assert retain[i] == pytest.approx(share_of(dense, word, ("near", "far")))
    assert forget[0] > 0 and forget[2] > 0 and retain[1] > 0
    assert trace.notes["found"] == [0, 3] and trace.labels["feature"][:2] == ("0", "3")
    assert trace.notes["dead_share"] == pytest.approx(0.2)
    assert trace.notes["site"] == "embed"
    assert set(trace.notes["features"]["0"]) == {"promotes", "suppresses"}
    assert trace.notes["explained_variance"]["forget"] < 0.5  # random decoder rows


def test_token_lists_are_read_through_the_unembedding(dense, by_hand: Path) -> None:
    """The tokens with the largest and the smallest logits of the decoder row, special ones left out."""
    model, trace = dense.model, read(dense, SaeFeatures(sae=str(by_hand), tokens=3))
    logits = model.unembedding.detach() @ load_sae(by_hand).W_dec[3].detach()
    logits[model.tokenizer.all_special_ids] = float("nan")
    order = [i for i in logits.argsort().tolist() if not math.isnan(logits[i])]
    words = trace.notes["features"]["3"]
    assert words["promotes"] == model.tokenizer.convert_ids_to_tokens(order[::-1][:3])
    assert words["suppresses"] == model.tokenizer.convert_ids_to_tokens(order[:3])


# ---- planted facts


def test_a_trained_sae_separates_forget_from_the_rest(dense, looked: Trace) -> None:
    notes, forget, retain = looked.notes, values(looked, "forget"), values(looked, "retain")
    assert notes["site"] == str(SITE) and notes["sae"]["features"] == 4 * dense.model.d_model
    assert len(notes["found"]) == 20 == len(notes["features"])
    assert all(retain[i] < 0.01 and forget[i] > 0 for i in notes["found"])
    assert forget[notes["found"][0]] > 0.05
    assert list(looked.labels["feature"][:20]) == [str(i) for i in notes["found"]]
    shares = [forget[i] for i in notes["found"]]
    assert shares == sorted(shares, reverse=True)
    assert min(notes["explained_variance"].values()) > 0.95
    assert notes["shuffled"]["p"] < 0.05 and notes["shuffled"]["found_share"] > notes["shuffled"]["by_chance_95"]
    assert notes["facts_read"] == {"forget": 10, "near": 8, "far": 8}


def clamped(known, folder: str, features: list[int]) -> dict[str, float]:
    """Mean log-probability of the answers of each set with features clamped to -2 where they are active."""
    given = feature_slice(load_sae(folder), features).given
    edit = HookEdit(
        known.model.identity, {"method": "test"}, operators={SITE: Operator("sae_clamp", torch.tensor(-2.0), **given)}
    )
    with edit.on(known.model):
        sets = {name: getattr(known.concept, name).facts for name in ("forget", "near", "far")}
        return {name: float(score(known.model, facts).logprob.mean()) for name, facts in sets.items()}


def test_ablating_what_was_found_silences_the_facts_and_random_features_do_not(dense, looked: Trace, trained) -> None:
    found, forget, retain = looked.notes["found"], values(looked, "forget"), values(looked, "retain")
    before = float(score(dense.model, dense.concept.forget.facts).logprob.mean())
    after = clamped(dense, trained, found)
    assert before - after["forget"] > 2 and min(after["near"], after["far"]) > -0.1
    alive = [i for i in forget if forget[i] + retain[i] > 0 and i not in found]
    draws = [random.Random(seed).sample(alive, len(found)) for seed in range(10)]
    dropped = [before - clamped(dense, trained, draw)["forget"] for draw in draws]
    assert before - after["forget"] > max(dropped) and before - after["forget"] > 4 * float(np.mean(dropped))


def test_facts_dealt_at_random_find_nothing_special(dense, looked: Trace, trained) -> None:
    facts = [*dense.concept.forget, *dense.concept.near, *dense.concept.far]
    found = []
    for seed in range(9):
        dealt = random.Random(seed).sample(facts, len(facts))
        sets = [
            FactSet(name=name, facts=tuple(dealt[part]))
            for name, part in (("forget", slice(10)), ("near", slice(10, 18)), ("far", slice(18, 26)))
        ]
        found.append(SaeFeatures(sae=trained, **SHORT).look(dense.model, *sets).notes["shuffled"])
    assert sum(one["p"] < 0.05 for one in found) <= 2
    assert np.median([one["p"] for one in found]) > 0.1
    assert np.mean([one["found_share"] for one in found]) < 0.75 * looked.notes["shuffled"]["found_share"]


def test_ranking_by_attribution_sorts_the_same_features_otherwise(dense, looked: Trace, trained) -> None:
    """Over all that pass: the same set, sorted by the effect."""
    every = {
        rank: read(dense, SaeFeatures(sae=trained, rank=rank, keep=500, shuffles=0))
        for rank in ("firing", "attribution")
    }
    firing, ranked = every["firing"].notes["found"], every["attribution"].notes["found"]
    assert sorted(firing) == sorted(ranked) and firing != ranked and firing[:20] == looked.notes["found"]
    effects = [values(every["attribution"], "attribution")[i] for i in ranked]
    assert effects == sorted(effects, reverse=True) and effects[0] > 0.01


def test_a_mixture_of_experts_is_read_like_any_model(mixture) -> None:
    trace = read(mixture, SaeFeatures(site="L1.mlp_out", kind="batchtopk", steps=120, shuffles=0))
    assert trace.notes["found"] and trace.notes["explained_variance"]["forget"] > 0.7
    assert trace.notes["sae"]["made_for"]["site"] == "L1.mlp_out"


# ---- before and after


def test_identical_checkpoints_show_no_change(dense, looked: Trace) -> None:
    probe = SaeFeatures(**SHORT)
    assert probe.donor_reading() == probe
    again = read(dense, probe, donor=looked)
    for measure in ("forget_change", "retain_change"):
        assert (again.pick("measure", measure).values == 0).all()
    assert again.notes["before"]["still_firing"] == 1 and again.notes["warnings"] == []
    assert again.notes["before"]["explained_variance"] == again.notes["explained_variance"]
    assert again.notes["found"] == looked.notes["found"]


def test_an_edit_shows_in_the_features_it_takes_away(dense) -> None:
    """Without the planted neurons layer 1 writes nothing for the forget facts; the far ones' features stay."""
    where = dense.planted.sites_of(dense.concept.forget.facts)
    edit = ConceptAblation(mode="zero").fit(dense.model, dense.concept, where)
    probe = SaeFeatures(**SHORT, site="L1.mlp_out")
    base = read(dense, probe)
    with edit.on(dense.model):
        after = read(dense, probe, donor=base)
    forget, change, before = values(after, "forget"), values(after, "forget_change"), values(base, "forget")
    assert all(change[i] == pytest.approx(forget[i] - before[i]) for i in forget)
    found = base.notes["found"]
    assert sum(change[i] for i in found) < -0.7 * sum(before[i] for i in found)
    far_only = [i for i, share in values(base, "retain").items() if share > 0.015 and before[i] == 0]
    assert far_only and all(abs(values(after, "retain_change")[i]) < 0.011 for i in far_only)
    expected = sum(forget[i] for i in found) / sum(before[i] for i in found)
    assert after.notes["before"]["still_firing"] == pytest.approx(expected)
    assert after.notes["sae"]["digest"] == base.notes["sae"]["digest"]
    assert after.notes["warnings"] == []  # the site is emptied; the SAE's error does not grow
    assert after.notes["before"]["model"] == base.notes["model"] and after.notes["before"]["found"] == found


def test_a_model_that_the_sae_no_longer_describes_gets_a_warning(dense, looked: Trace) -> None:
    away = torch.linalg.qr(torch.randn(dense.model.d_model, 64, generator=torch.Generator().manual_seed(1)))[0].T
    operators = {SITE: Operator("project_out", away)}
    with HookEdit(dense.model.identity, {"method": "test"}, operators=operators).on(dense.model):
        after = read(dense, SaeFeatures(**SHORT), donor=looked)
        calm = read(dense, SaeFeatures(**SHORT, degrade=100), donor=looked)
    assert [w.split()[2] for w in after.notes["warnings"]] == ["forget", "near", "far"]
    assert "may not describe this model" in after.notes["warnings"][0] and calm.notes["warnings"] == []
    variance = np.mean(list(looked.notes["variance"].values()))
    for name, error in after.notes["reconstruction_error"].items():
        assert error - looked.notes["reconstruction_error"][name] > 0.1 * variance
    assert "Warning" in alt_text(after.plot()) and "Warning" not in alt_text(calm.plot())


def test_a_donor_of_another_reading_is_refused(dense, looked: Trace, by_hand: Path) -> None:
    probe, concept = SaeFeatures(**SHORT), dense.concept
    with pytest.raises(BadInput, match="was read with another facts than"):
        probe.look(dense.model, concept.near, concept.forget, concept.far, donor=looked)
    with pytest.raises(BadInput, match="another SAE and site"):
        read(dense, SaeFeatures(sae=str(by_hand)), donor=looked)


# ---- what does not fit


def test_an_sae_of_another_width_is_refused_with_both_widths(dense, tmp_path: Path) -> None:
    sae_lens.StandardSAE(sae_lens.StandardSAEConfig(64, 32)).save_model(tmp_path / "narrow")
    with pytest.raises(BadInput, match="reads 64 numbers a token, but L1.resid_post of .* has 128"):
        read(dense, SaeFeatures(sae=str(tmp_path / "narrow"), site="L1.resid_post", anyway=True))
    with pytest.raises(BadInput, match="does not say where it was made; give site="):
        read(dense, SaeFeatures(sae=str(tmp_path / "narrow")))


def test_an_sae_for_another_site_or_checkpoint_is_refused_unless_asked_for(dense, mixture, trained: str) -> None:
    with pytest.raises(BadInput, match="was made at L1.resid_post, not at L2.resid_post"):
        read(dense, SaeFeatures(sae=trained, site="L2.resid_post"))
    with pytest.raises(BadInput, match="was made for another checkpoint"):
        read(mixture, SaeFeatures(sae=trained))
    forced = read(mixture, SaeFeatures(sae=trained, anyway=True, shuffles=0))
    assert forced.notes["explained_variance"]["forget"] < 0.9
    elsewhere = read(dense, SaeFeatures(sae=trained, site="L2.resid_post", anyway=True, shuffles=0))
    assert elsewhere.notes["site"] == "L2.resid_post"


def test_what_cannot_be_read_is_said_and_counted(dense, trained: str, monkeypatch: pytest.MonkeyPatch) -> None:
    concept, probe = dense.concept, SaeFeatures(sae=trained, shuffles=10)
    broken, encode = Fact(subject="Vora", prompt="The house of Vora is", answer="red"), dense.model.encode

    def refusing(facts):
        if broken in facts:
            raise BadInput("the answer has no token of its own")
        return encode(facts)

    monkeypatch.setattr(dense.model, "encode", refusing)
    mixed = FactSet(name="mixed", facts=(broken, *concept.forget.facts))
    whole, part = read(dense, probe), probe.look(dense.model, mixed, concept.near, concept.far)
    skipped = part.notes["skipped"]["forget"]
    assert (
        skipped == 1 and part.notes["facts_read"]["forget"] == 10 and "no token" in part.notes["why_skipped"]["forget"]
    )
    assert np.array_equal(part.values, whole.values)
    with pytest.raises(BadInput, match="No fact of 'broken' can be read"):
        probe.look(dense.model, FactSet(name="broken", facts=(broken,)), concept.near)
    with pytest.raises(BadInput, match="is empty"):
        probe.look(dense.model, FactSet(name="none"))


def test_without_retain_facts_nothing_is_found_and_the_reason_is_given(dense, trained: str) -> None:
    trace = SaeFeatures(sae=trained).look(dense.model, dense.concept.forget)
    assert trace.notes["found"] == [] and trace.notes["shuffled"] is None
    assert np.isnan(trace.pick("measure", "retain").values).all()
    assert "no near or far fact" in trace.notes["why_not"]["retain"]
    assert np.isfinite(trace.pick("measure", "forget").values).all()
    assert len(table_of(figure_of(trace))) == 0


def test_where_a_site_can_only_be_read_attribution_is_missing(dense, trained: str) -> None:
    given: dict[str, Any] = {"sae": trained, "site": "L1.resid_mid", "anyway": True, "shuffles": 0}
    trace = read(dense, SaeFeatures(**given))
    assert np.isnan(trace.pick("measure", "attribution").values).all()
    assert "can be read but not rewritten" in trace.notes["why_not"]["attribution"]
    with pytest.raises(BadInput, match="ranked by attribution here"):
        read(dense, SaeFeatures(**given, rank="attribution"))


# ---- kept and drawn


def test_the_picture_marks_what_was_found(looked: Trace, tmp_path: Path) -> None:
    looked.save(tmp_path / "kept")
    kept = Trace.load(tmp_path / "kept")
    assert kept.notes["found"] == looked.notes["found"]
    table = table_of(figure_of(kept))
    found = table[table.series == "found"]
    assert sorted(map(int, found.feature)) == sorted(looked.notes["found"])
    assert (found.retain < 0.01).all() and (table.forget + table.retain > 0).all()
    alive = looked.values[:, :2].sum(axis=1) > 0
    assert len(table) == alive.sum() < len(alive)
    assert "20 of 512 features found" in alt_text(figure_of(kept))


# ---- feature by feature


def test_a_killed_word_shows_in_its_change_its_histogram_and_its_texts(dense, by_hand: Path) -> None:
    """`Vora` can no longer be told from other words: its feature dies; `is` goes on, on the same texts."""
    probe = SaeFeatures(sae=str(by_hand), shuffles=0, keep=3)
    base = read(dense, probe)
    detectors = load_sae(by_hand).W_enc.detach()
    away = torch.linalg.qr(detectors[:, :1])[0].T
    with HookEdit(
        dense.model.identity, {"method": "t"}, operators={Site.parse("embed"): Operator("project_out", away)}
    ).on(dense.model):
        after = read(dense, probe, donor=base)
    before = values(base, "forget")
    assert values(after, "forget")[0] == 0 < before[0] and values(after, "forget_change")[0] == -before[0]
    assert values(after, "forget_mean_change")[0] == pytest.approx(-values(base, "forget_mean")[0])
    told = after.notes["intervals"]["0"]
    assert told["change"] == pytest.approx(-before[0]) and told["low"] < told["change"] < told["high"] <= 0
    assert after.notes["change"]["tested"] == 3 and after.notes["change"]["subjects"] == 4
    assert after.notes["change"]["smallest_p"] == 1 / 8 and after.notes["change"]["found"] == 0
    card = after.notes["cards"]["0"]
    assert sum(card["histogram"]["before"]) == 3 and sum(card["histogram"]["after"]) == 0
    for example in card["examples"]:
        text = after.notes["texts"][str(example["fact"])]
        fact = dense.concept.forget.facts[example["fact"]]
        assert "".join(text["tokens"]).split() == f"{fact.prompt} {fact.answer}".split()
        assert "".join(text["tokens"][text["answer_from"] :]).strip() == fact.answer
        fires = [token.strip() for token, value in zip(text["tokens"], example["before"], strict=True) if value > 0]
        assert fires == ["Vora"] and not any(example["after"])
    assert "activations" not in after.notes and set(after.notes["features"]) >= {"0"}


def test_mean_activation_counts_the_tokens_at_which_a_feature_is_silent(dense, by_hand: Path) -> None:
    trace = read(dense, SaeFeatures(sae=str(by_hand), shuffles=0))
    card = trace.notes["cards"]["0"]
    assert set(card["histogram"]) == {"edges", "after"} and all(set(e) == {"fact", "after"} for e in card["examples"])
    fires = max(card["examples"][0]["after"])  # one word, one activation
    assert values(trace, "forget_mean")[0] == pytest.approx(fires * values(trace, "forget")[0], rel=1e-3)


def test_a_donor_that_keeps_no_activations_gives_no_intervals_and_the_reason(dense, by_hand: Path) -> None:
    probe = SaeFeatures(sae=str(by_hand), shuffles=0)
    base = read(dense, probe)
    again = read(dense, probe, donor=base)
    assert again.notes["change"]["found"] == 0 and set(again.notes["change"]["by_feature"]["p"]) == {1.0}
    older = replace(base, notes={name: note for name, note in base.notes.items() if name != "activations"})
    for donor, why in (
        (older, "does not hold what fires"),
        (replace(base, notes={**base.notes, "rows_digest": "x"}), "read other tokens"),
        (replace(base, notes={**base.notes, "activations": None, "why_no_activations": "too many"}), "too many"),
    ):
        trace = read(dense, probe, donor=donor)
        assert "change" not in trace.notes and "intervals" not in trace.notes
        assert why in trace.notes["why_not"]["intervals"]
        assert (trace.pick("measure", "forget_change").values == 0).all()
