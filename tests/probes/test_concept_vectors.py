import numpy as np
import pytest
import torch

from probes.concept_vectors import (
    MEASURES,
    ConceptVectors,
    compare_snapshots,
    controls_of,
    jaccard,
    moved,
    snapshot,
    top_ids,
)
from probes.vector_scan import Against, scan
from tests import zoo
from workbench.concepts import Fact, FactSet
from workbench.edits import kept
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.sites import Site

COLUMNS = {
    "trace.concept_vectors.llama.layer0_dim5": "L0.mlp_act[5]",
    "trace.concept_vectors.llama.layer1_dim17": "L1.mlp_act[17]",
    "trace.concept_vectors.llama.layer2_dim40": "L2.mlp_act[40]",
}


def test_scores_equal_projecting_every_vector_onto_the_whole_vocabulary():
    generator = torch.Generator().manual_seed(0)
    unembedding, vectors = (torch.randn(n, 12, generator=generator) + 0.3 for n in (50, 40))
    terms, among = torch.tensor([3, 7, 9]), torch.arange(2, 48)
    logits = vectors @ unembedding.T
    centred = logits - logits[:, among].mean(dim=1, keepdim=True)
    spread = logits[:, among].std(dim=1, correction=0)
    expected = {
        ("standardised", "mean"): centred[:, terms].mean(dim=1).abs() / spread,
        ("standardised", "max"): centred[:, terms].abs().amax(dim=1) / spread,
        ("average", "mean"): logits[:, terms].mean(dim=1).abs(),
        ("average", "max"): logits[:, terms].abs().amax(dim=1),
        ("published", "mean"): logits[:, among].mean(dim=1),
    }
    for (how, pool), naive in expected.items():
        ours = scan([vectors[:30], vectors[30:]], Against(unembedding, terms, among, pool), how).scores
        assert torch.allclose(ours, naive, atol=1e-4), how


def test_finds_the_planted_vectors(known):
    facts = known.concept.forget
    written = [*facts, *known.concept.near, *known.concept.far]
    words = {fact.answer.split()[0] for fact in facts}
    says_it = {
        str(site)
        for fact, site in zip(written, known.planted.sites_of(written), strict=True)
        if fact.answer.split()[0] in words
    }
    found = ConceptVectors(pool="max").look(known.model, facts).top("site", len(says_it))
    assert {str(site) for site in found} == says_it


def test_effect_finds_the_vectors_of_these_people_alone(known):
    true = {str(site) for site in known.planted.sites_of(known.concept.forget.facts)}
    found = ConceptVectors(score="effect").look(known.model, known.concept.forget).top("site", len(true))
    assert len(true & {str(site) for site in found}) >= len(true) - 1
    mean = ConceptVectors(score="effect", keep=10**6).look(known.model, known.concept.near)
    of_near = {str(site) for site in known.planted.sites_of(known.concept.near.facts)}
    assert not true & {str(site) for site in mean.top("site", len(of_near))}


def test_finds_nothing_for_words_that_nobody_wrote(known):
    facts = FactSet(
        name="unwritten",
        facts=tuple(
            Fact(subject="Vora", prompt="The colour of Vora is", answer=word)
            for word in ("house", "river", "old", "man")
        ),
    )
    nothing = ConceptVectors(pool="max").look(known.model, facts).values[0]
    something = ConceptVectors(pool="max").look(known.model, known.concept.forget).values[7]
    assert nothing < 0.65 * something


def test_keeps_the_best_and_says_how_many_were_scanned(known):
    facts = known.concept.forget
    whole, best = (ConceptVectors(keep=keep, describe=3, tokens=4).look(known.model, facts) for keep in (10**6, 7))
    neurons = sum(len(vectors) for _, vectors in known.model.mlps())
    assert whole.notes["scanned"] == best.notes["scanned"] == len(whole.values) == neurons
    assert best.labels["site"] == whole.labels["site"][:7] and best.notes["kept"] == 7
    assert (np.diff(whole.values) <= 0).all()
    assert list(best.notes["vectors"]) == list(best.labels["site"][:3])
    assert all(len(vector["promotes"]) == 4 for vector in best.notes["vectors"].values())


def test_describes_what_a_planted_vector_says(known):
    trace = ConceptVectors(pool="max", describe=100).look(known.model, known.concept.forget)
    for fact, site in zip(known.concept.forget, known.planted.sites_of(known.concept.forget.facts), strict=True):
        vector = trace.notes["vectors"][str(site)]
        assert vector["promotes"][0].endswith(fact.answer.split()[0])
        assert vector["norm"] == pytest.approx(1, abs=0.1)


def test_gain_reaches_the_projection(golden_models):
    model = golden_models["llama_base"]
    facts = FactSet(name="one", facts=(Fact(subject="a", prompt="a", answer="a"),))
    with_gain, without = (ConceptVectors(gain=gain).look(model, facts).values for gain in (True, False))
    assert not np.allclose(with_gain, without, rtol=1e-3)


@pytest.mark.parametrize("k", [20, 200])
def test_measures_equal_the_published_code_on_tensors(k, golden, golden_tensors):
    published = golden[f"trace.concept_vectors.tensor_top{k}"]["published"]["value"]
    unembedding, old, new = (golden_tensors[f"cv.{name}"] for name in ("E", "v_old", "v_new"))
    ids = top_ids(torch.stack([old, new]) @ unembedding.T, k, torch.arange(len(unembedding))).tolist()
    cosine, l2, _ = moved(old.numpy(), new.numpy())
    assert ids[0][: len(published["top_ids_old"])] == published["top_ids_old"]
    assert jaccard(*ids) == pytest.approx(published["jaccard"], abs=1e-12)
    assert (cosine, l2) == pytest.approx((published["cosine"], published["l2"]), rel=1e-9)


@pytest.mark.parametrize("record", COLUMNS)
def test_measures_equal_the_published_code_on_checkpoints(record, golden, golden_models):
    old, new = golden_models["llama_base"], golden_models["llama_unlearned"]
    site, record = Site.parse(COLUMNS[record]), golden[record]
    for theirs, unembedding in (
        (record["published"]["float32"], old.unembedding),
        (record["variants"]["each_own_lm_head"]["value"], new.unembedding),
    ):
        ids = [
            top_ids(model.vectors_at([site]) @ head.T, 25, torch.arange(160))[0].tolist()
            for model, head in ((old, old.unembedding), (new, unembedding))
        ]
        assert ids[0] == theirs["top_ids_old"]
        assert jaccard(*ids) == pytest.approx(theirs["jaccard"], abs=1e-9)
    change = compare_snapshots(snapshot(old, [site], 25), snapshot(new, [site], 25)).pick("site", str(site))
    assert change.values[MEASURES.index("cosine")] == pytest.approx(theirs["cosine"], rel=1e-5)
    assert change.values[MEASURES.index("l2")] == pytest.approx(theirs["l2"], rel=1e-5)


def test_a_model_does_not_differ_from_itself(known, golden_models):
    sites = known.planted.sites_of(known.concept.forget.facts)
    change = compare_snapshots(snapshot(known.model, sites), snapshot(known.model, sites))
    assert np.allclose(change.values, [1, 1, 0, 1], atol=1e-6)
    assert not change.notes["unembedding_changed"]
    site = [Site.parse("L1.mlp_act[17]")]
    other = compare_snapshots(*(snapshot(golden_models[name], site) for name in ("llama_base", "llama_unlearned")))
    assert other.notes["unembedding_changed"]


def test_a_silenced_vector_has_no_direction():
    cosine, l2, ratio = moved(np.ones(4), np.zeros(4))
    assert np.isnan(cosine) and (l2, ratio) == (2.0, 0.0)


def test_refuses_what_it_cannot_compare(dense, mixture):
    one, other = Site.parse("L1.mlp_act[0]"), Site.parse("L1.mlp_act[1]")
    with pytest.raises(BadInput, match="different sites"):
        compare_snapshots(snapshot(dense.model, [one]), snapshot(dense.model, [other]))
    with pytest.raises(BadInput, match="different k"):
        compare_snapshots(snapshot(dense.model, [one], 5), snapshot(dense.model, [one], 6))
    bad = ("L1.resid_post", "L1.e0.mlp_act[3]", "L9.mlp_act[0]", "L1.mlp_act[4800]", "L1.mlp_act", "embed")
    for model, text in [(dense.model, text) for text in bad] + [(mixture.model, "L1.mlp_act[3]")]:
        with pytest.raises(BadInput, match="not a value vector"):
            snapshot(model, [Site.parse(text)])


def test_overlap_at_k_1_finds_the_planted_vectors(known):
    facts = known.concept.forget
    words = {fact.answer.split()[0] for fact in facts}
    written = [*facts, *known.concept.near, *known.concept.far]
    says_it = {
        str(site)
        for fact, site in zip(written, known.planted.sites_of(written), strict=True)
        if fact.answer.split()[0] in words
    }
    trace = ConceptVectors(score="overlap", pool="max", k=1).look(known.model, facts)
    assert {str(site) for site in trace.top("site", len(says_it))} == says_it
    assert trace.notes["k"] == 1 and trace.values[0] == pytest.approx(1 / len(words))
    assert trace.units == "Jaccard index with the terms"


@pytest.mark.parametrize("options", [{}, {"score": "average"}, {"score": "overlap", "k": 1}, {"score": "effect"}])
def test_a_vector_whose_negative_spells_the_concept_is_found_too(known, options):
    facts, how = known.concept.forget, ConceptVectors(pool="max", **options)
    sites = known.planted.sites_of(facts.facts)
    before = how.look(known.model, facts)
    stored = known.model.stored_at(sites[:1])
    with kept(known.model, [stored[0][0]]), torch.no_grad():
        stored[0][1].neg_()
        after = how.look(known.model, facts)
    if how.score == "effect":  # what it does to the answer is the other way round, and so are both its ends
        assert after.labels["site"].index(str(sites[0])) > 100
    else:
        assert after.labels["site"] == before.labels["site"]
    for site in map(str, sites):
        sign = dict(zip(after.labels["site"], after.notes["signs"], strict=True))[site]
        assert sign == (-1 if site == str(sites[0]) else 1)
    here = after.notes["vectors"].get(str(sites[0]))
    if here is not None:
        assert here["sign"] == -1 and facts.facts[0].answer.split()[0] in here["suppresses"][0]
        assert here["spells"][0] == here["suppresses"][0]


def test_tells_how_far_it_is(known):
    told = []
    trace = ConceptVectors().look(known.model, known.concept.forget, progress=lambda *at: told.append(at))
    assert told == sorted(told) and told[-1] == (trace.notes["scanned"],) * 2
    assert len(told) >= len(list(known.model.mlps()))


def test_all_terms_are_those_of_whole_answers(known):
    facts = known.concept.forget
    first, whole = (ConceptVectors(terms=which, describe=0).look(known.model, facts) for which in ("first", "all"))
    words = {word for fact in facts for word in fact.answer.split()}
    assert {term.removeprefix("▁") for term in whole.notes["terms"]} == words
    assert {term.removeprefix("▁") for term in first.notes["terms"]} == {fact.answer.split()[0] for fact in facts}
    assert set(first.notes["terms"]) < set(whole.notes["terms"])


def test_says_where_a_norm_stands_behind_the_mlp():
    facts = FactSet(name="one", facts=(Fact(subject="river", prompt="by the river", answer="house"),))
    notes = {
        name: ConceptVectors(describe=0).look(HookedModel(zoo.make(name), zoo.tokenizer(), name=name), facts).notes
        for name in ("gemma2", "llama")
    }
    assert list(notes["gemma2"]["norm_behind_mlp"]) == [f"L{i}.mlp_act" for i in range(zoo.LAYERS)]
    assert "post_feedforward_layernorm" in notes["gemma2"]["norm_behind_mlp"]["L0.mlp_act"]
    assert notes["llama"]["norm_behind_mlp"] == {}


def test_random_neurons_beside_the_chosen_lie_in_the_same_mlp_and_are_others(known):
    sites = known.planted.sites_of(known.concept.forget.facts)
    drawn = controls_of(known.model, sites, 0)
    assert sorted(str(s.whole) for s in drawn) == sorted(str(s.whole) for s in sites)
    assert not set(drawn) & set(sites) and len(set(drawn)) == len(sites)
    assert drawn == controls_of(known.model, sites, 0) != controls_of(known.model, sites, 1)
    mlp, rows = next(known.model.mlps())
    most = [Site(mlp.layer, "mlp_act", i, mlp.expert) for i in range(len(rows) - 1)]
    with pytest.raises(BadInput, match="Choose fewer vectors"):
        controls_of(known.model, most, 0)


def test_a_snapshot_from_the_other_end_lists_what_is_suppressed(known):
    sites = known.planted.sites_of(known.concept.forget.facts[:1])
    down = snapshot(known.model, sites, 5, [-1])
    up = snapshot(known.model, sites, 5, [1])
    assert up.notes["top_ids"] == snapshot(known.model, sites, 5).notes["top_ids"]
    assert not set(up.notes["top_ids"][str(sites[0])]) & set(down.notes["top_ids"][str(sites[0])])
    assert np.array_equal(up.values, down.values)
    with pytest.raises(BadInput, match="different signs"):
        compare_snapshots(up, down)
