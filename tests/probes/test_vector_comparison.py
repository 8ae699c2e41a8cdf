import contextlib

import numpy as np
import pytest
import torch

from probes.concept_vectors import MEASURES, ConceptVectors, snapshot, top_ids
from probes.vector_comparison import OF_TERMS, VectorChange, VectorSnapshot, kept_terms
from workbench.concepts import Fact, FactSet
from workbench.edits import kept
from workbench.errors import BadInput
from workbench.sites import Site, parse_sites

ALL = (*MEASURES, *OF_TERMS)
COLUMNS = {"layer0_dim5": "L0.mlp_act[5]", "layer1_dim17": "L1.mlp_act[17]", "layer2_dim40": "L2.mlp_act[40]"}


@contextlib.contextmanager
def rewritten(model, sites, change):
    """Vectors changed in place for the length of a block."""
    stored = model.stored_at(sites)
    with kept(model, sorted({name for name, _ in stored})), torch.no_grad():
        for _, vector in stored:
            change(vector)
        yield


@pytest.fixture(scope="module")
def how():
    return VectorChange(score="effect", vectors=10, k=5)


@pytest.fixture(scope="module")
def donor(known, how):
    return how.donor_reading().look(known.model, known.concept.forget)


def test_a_checkpoint_does_not_differ_from_itself(known, how, donor):
    change = how.look(known.model, known.concept.forget, donor=donor)
    assert change.labels["measure"] == ALL and change.labels["site"] == donor.labels["site"][:10]
    unchanged = [float(measure != "l2") for measure in ALL]
    assert np.allclose(change.values, unchanged, atol=1e-12)
    for part in ("summary", "random"):
        for measure, expected in zip(ALL, unchanged, strict=True):
            said = change.notes[part][measure]
            if said["n"]:
                assert [said[name] for name in ("mean", "lowest", "highest")] == pytest.approx([expected] * 3)
    assert change.notes["summary"]["jaccard"]["n"] == 10 and not change.notes["unembedding_changed"]


def test_finds_which_vectors_were_cut_out(known, how, donor):
    facts = known.concept.forget
    with rewritten(known.model, known.planted.sites_of(facts.facts), lambda vector: vector.zero_()):
        change = how.look(known.model, facts, donor=donor)
    summary, random = change.notes["summary"], change.notes["random"]
    cut = change.pick("measure", "norm_ratio").values == 0
    assert {site for site, gone in zip(change.labels["site"], cut, strict=True) if gone} == {
        str(site) for site in known.planted.sites_of(facts.facts)
    } & set(change.labels["site"])
    assert cut.sum() >= 9 and np.isnan(change.pick("measure", "cosine").values[cut]).all()
    assert summary["l2"]["highest"] > 0.9 and summary["cosine"]["n"] == (~cut).sum()
    assert random["l2"]["highest"] == 0 and random["jaccard"]["lowest"] == 1


def test_vectors_that_were_not_found_do_not_enter_the_summary(known, how, donor):
    facts, others = known.concept.forget, parse_sites(donor.labels["site"][10:])
    with rewritten(known.model, others, lambda vector: vector.mul_(-2)):
        change = how.look(known.model, facts, donor=donor)
    assert change.notes["summary"]["cosine"]["lowest"] == pytest.approx(1)
    assert change.notes["random"]["cosine"]["highest"] == pytest.approx(-1)
    assert change.notes["random"]["norm_ratio"]["mean"] == pytest.approx(2)
    assert change.notes["random_vectors"] == list(donor.labels["site"][10:])


def test_the_terms_of_a_planted_vector_go_when_it_is_turned_round(known, how, donor):
    facts = known.concept.forget
    site = donor.labels["site"][0]
    with rewritten(known.model, parse_sites([site]), lambda vector: vector.neg_()):
        change = how.look(known.model, facts, donor=donor)
    found = dict(zip(ALL, change.values[0], strict=True))
    assert found["terms_kept"] == found["jaccard"] == 0 and found["cosine"] == pytest.approx(-1)
    assert change.values[1:, ALL.index("terms_kept")].tolist() == [1] * 9


def test_a_vector_whose_negative_speaks_is_read_from_that_end(known):
    facts = known.concept.forget
    site = known.planted.sites_of(facts.facts[:1])[0]
    how = VectorChange(score="standardised", pool="max", vectors=30, k=5)
    with rewritten(known.model, [site], lambda vector: vector.neg_()):
        donor = how.donor_reading().look(known.model, facts)
        words = known.model.tokenizer.convert_ids_to_tokens(donor.notes["top_ids"][str(site)])
        change = how.look(known.model, facts, donor=donor)
    assert donor.notes["signs"][donor.labels["site"].index(str(site))] == -1
    assert words[0].endswith(facts.facts[0].answer.split()[0])
    assert change.values[change.labels["site"].index(str(site)), ALL.index("terms_kept")] == 1


def test_a_vector_without_any_term_has_no_share_of_them():
    kept_share, ratio = kept_terms({1, 2}, [3, 4], [1, 3])
    assert np.isnan(kept_share) and np.isnan(ratio)
    assert kept_terms({1, 2, 5}, [1, 2, 4], [1, 3, 5]) == (0.5, 1.0)


@pytest.mark.parametrize("k", [20, 200])
def test_measures_of_terms_equal_the_published_code_on_tensors(k, golden, golden_tensors):
    published = golden[f"trace.concept_vectors.tensor_top{k}"]["published"]["value"]
    unembedding, old, new = (golden_tensors[f"cv.{name}"] for name in ("E", "v_old", "v_new"))
    article = set(range(0, len(unembedding), 3))
    ids = top_ids(torch.stack([old, new]) @ unembedding.T, k, torch.arange(len(unembedding))).tolist()
    ours = kept_terms(article, *ids)
    assert ours == pytest.approx((published["related_tokens_rate"], published["preciser_jaccard"]), abs=1e-12)


@pytest.mark.parametrize("column", COLUMNS)
def test_measures_of_terms_equal_the_published_code_on_checkpoints(column, golden, golden_models):
    record = golden[f"trace.concept_vectors.llama.{column}"]
    old, new = golden_models["llama_base"], golden_models["llama_unlearned"]
    site, article = [Site.parse(COLUMNS[column])], set(range(4, 160, 2))
    for theirs, head in (
        (record["published"]["float32"], old.unembedding),
        (record["variants"]["each_own_lm_head"]["value"], new.unembedding),
    ):
        before, after = (
            top_ids(model.vectors_at(site) @ rows.T, 25, torch.arange(160))[0].tolist()
            for model, rows in ((old, old.unembedding), (new, head))
        )
        ours = kept_terms(article, before, after)
        assert ours == pytest.approx((theirs["related_tokens_rate"], theirs["preciser_jaccard"]), abs=1e-9)


def test_two_checkpoints_are_compared_at_the_vectors_of_the_first(golden_models):
    facts = FactSet(name="one", facts=(Fact(subject="a", prompt="a", answer="a"),))
    old, new = golden_models["llama_base"], golden_models["llama_unlearned"]
    how = VectorChange(vectors=6)
    change = how.look(new, facts, donor=how.donor_reading().look(old, facts))
    assert change.labels["site"] == ConceptVectors(describe=0).look(old, facts).labels["site"][:6]
    for site, row in zip(parse_sites(change.labels["site"]), change.values, strict=True):
        a, b = (model.vectors_at([site])[0].double() for model in (old, new))
        assert row[ALL.index("l2")] == pytest.approx(float((a - b).norm()))
        assert row[ALL.index("cosine")] == pytest.approx(float(torch.cosine_similarity(a, b, dim=0)))
    assert change.notes["before"] == old.name and change.notes["after"] == new.name
    assert change.notes["unembedding_changed"]


def test_both_halves_agree_on_the_options(how):
    assert isinstance(how.donor_reading(), VectorSnapshot) and how.donor_from == "against"
    assert how.donor_reading().model_dump() == how.model_dump()


def test_refuses_what_it_cannot_compare(dense, golden_models):
    model, facts, how = dense.model, dense.concept.forget, VectorChange(vectors=3)
    with pytest.raises(BadInput, match="no reading of VectorSnapshot"):
        how.look(model, facts, donor=snapshot(model, [Site.parse("L1.mlp_act[0]")], 5))
    with pytest.raises(BadInput, match="on the same facts"):
        how.look(model, facts, donor=how.donor_reading().look(model, dense.concept.near))
    one = FactSet(name="one", facts=(Fact(subject="red", prompt="red", answer="red"),))
    with pytest.raises(BadInput, match="width"):
        how.look(model, one, donor=how.donor_reading().look(golden_models["llama_base"], one))
