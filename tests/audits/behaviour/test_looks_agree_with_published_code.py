"""The readings, from prompt to number, against the stored outputs of published code on the same models."""

from dataclasses import replace

import numpy as np
import pytest

from audits.behaviour.answers import AnswerProbability
from audits.behaviour.generations import Generations
from audits.behaviour.memorisation import ExactMemorisation, ExtractionStrength
from audits.behaviour.muse import KnowMem, VerbMem
from audits.behaviour.options import TruthRatio
from audits.behaviour.overlap import RougeL
from audits.metrics.membership import less_reference, membership_of
from audits.privacy.gradient import GradientScore
from audits.privacy.scores import LossScore, MinKPlusScore, MinKScore, ZlibScore
from tests.audits.behaviour.golden_facts import RECORDS, TEXTS, model, per_example, questions


def answer_and_paraphrase(row: dict[str, str]) -> str:
    return f"{row['answer']} {row['para']}"


def first_wrong(row: dict[str, list[str]]) -> str:
    return row["pert"][0]


def no_distractors(_: object) -> tuple[str, ...]:
    return ()


@pytest.mark.parametrize("name", ["llama_base", "llama_unlearned"])
def test_probability(name: str) -> None:
    found = AnswerProbability(normalise="token", published=True).look(model(name), questions("forget"))
    assert found.values == pytest.approx(per_example(f"metric.probability.{name}.forget_all", "prob"), rel=3e-5)
    plain = AnswerProbability(normalise="token").look(model(name), questions("forget"))
    assert not np.allclose(plain.values, found.values, rtol=1e-3)


@pytest.mark.parametrize("name", ["llama_base", "llama_unlearned"])
@pytest.mark.parametrize("what", ["forget_all", "forget_pert0"])
def test_extraction_strength_and_exact_memorisation(name: str, what: str) -> None:
    own = {"answer": first_wrong, "distractors": no_distractors} if what == "forget_pert0" else {}
    facts = questions("forget", **own)
    strength = ExtractionStrength(published=True).look(model(name), facts).values
    assert strength == pytest.approx(per_example(f"metric.extraction_strength.{name}.{what}"), rel=1e-6)
    share = ExactMemorisation().look(model(name), facts).values
    assert share == pytest.approx(per_example(f"metric.exact_memorization.{name}.{what}"), rel=1e-6)


def reworded(row: dict[str, str]) -> str:
    return row["para"]


@pytest.mark.parametrize(("part", "how"), [("forget", {"reworded_answer": reworded}), ("retain", {})])
@pytest.mark.parametrize("score", ["closer_to_1", "true_better", "prob_mean"])
def test_truth_ratio(part: str, how: dict[str, object], score: str) -> None:
    facts, key = questions(part, **how), "closer_to_1_better" if score == "closer_to_1" else score
    record = RECORDS[f"metric.truth_ratio.{key}.{part}"]
    found = TruthRatio(score=score, published=True).look(model("llama_base"), facts)
    assert found.values.mean() == pytest.approx(record["published"]["value"]["agg_value"], rel=1e-4, abs=1e-6)
    ratio = TruthRatio(score="ratio", published=True).look(model("llama_base"), facts)
    if score != "prob_mean":
        assert ratio.values == pytest.approx(record["published"]["value"]["per_example"], rel=1e-4)


@pytest.mark.parametrize("part", ["forget", "retain"])
def test_rouge_of_generations(part: str) -> None:
    record = f"metric.rouge.generation.{part}"
    facts, llama = questions(part), model("llama_unlearned")
    said = Generations(max_new_tokens=16).look(llama, facts)
    assert [text.replace(" .", ".") for text in said.notes["text"]] == per_example(record, "generation")
    for measure in ("recall", "f1"):
        found = RougeL(max_new_tokens=16, measure=measure).look(llama, facts, said)
        assert found.values == pytest.approx(per_example(record, f"rougeL_{measure}"), rel=1e-9)


@pytest.mark.parametrize("shots", [0, 2])
def test_knowmem(shots: int) -> None:
    plain = {"template": "{question}"}
    near = questions("retain", **plain) if shots else None
    found = KnowMem(shots=shots, max_new_tokens=12, published=True).look(
        model("llama_unlearned"), questions("forget", **plain), near
    )
    record = f"metric.muse.knowmem.icl{shots}"
    assert [t.replace(" .", ".") for t in found.notes["text"]] == per_example(record, "response")
    assert found.values == pytest.approx(per_example(record, "rougeL_recall"), rel=1e-9)


def test_verbmem() -> None:
    facts = questions("forget", answer=answer_and_paraphrase, distractors=no_distractors)
    found = VerbMem(max_new_tokens=10, published=True).look(model("llama_unlearned"), facts)
    assert found.notes["truth"] == [t.replace(" .", ".") for t in per_example("metric.muse.verbmem", "gt")]
    assert found.values == pytest.approx(per_example("metric.muse.verbmem", "rougeL"), rel=1e-9)
    ours = VerbMem(max_new_tokens=10).look(model("llama_unlearned"), facts)
    assert [len(t.split()) for t in ours.notes["truth"]] == [10] * len(facts)


MEMBERSHIP = {
    "mia.loss": LossScore(published=True),
    "mia.zlib": ZlibScore(published=True),
    "mia.min_k.0.2": MinKScore(k=0.2, published=True),
    "mia.min_k.0.4": MinKScore(published=True),
    "mia.min_k_plus_plus": MinKPlusScore(published=True),
    "mia.gradnorm.p1": GradientScore(p=1.0, published=True),
    "mia.gradnorm.p2": GradientScore(published=True),
}


@pytest.mark.parametrize("record", MEMBERSHIP)
def test_membership(record: str) -> None:
    found = [MEMBERSHIP[record].look(model("llama_retain"), questions(part)) for part in ("forget", "holdout")]
    for trace, part in zip(found, ("forget", "holdout"), strict=True):
        assert trace.values == pytest.approx(per_example(record, None, part), rel=2e-3)
    assert membership_of(*found).auc.mean == pytest.approx(RECORDS[record]["published"]["float32"]["auc"], abs=1e-12)


def test_the_whole_gradient_is_the_variant_that_follows_the_paper() -> None:
    found = GradientScore().look(model("llama_retain"), questions("forget")).values
    stored = RECORDS["mia.gradnorm.p2"]["variants"]["global_norm"]["value"]["forget"]
    assert found == pytest.approx(stored, rel=1e-3)


def test_the_reference_attack() -> None:
    stored = RECORDS["mia.reference"]["published"]["float32"]
    found = []
    for part in ("forget", "holdout"):
        loss, other = (LossScore(published=True).look(model(m), questions(part)) for m in ("llama_base", "gpt2"))
        found.append(less_reference(loss, other))
        assert found[-1].values == pytest.approx(stored[part], abs=1e-4)
        assert found[-1].notes["reference"] == "gpt2"
    assert membership_of(*found).auc.mean == pytest.approx(stored["auc"], abs=1e-12)


def test_muses_scores_of_whole_texts() -> None:
    texts = {part: [f"{t['question']} {t['answer']}" for t in TEXTS[part]] for part in ("forget", "holdout")}
    stored = RECORDS["metric.muse.privleak_scores"]["published"]["float32"]
    for key, score in (("PPL", LossScore()), ("PPL/zlib", ZlibScore()), ("Min-40%", MinKScore(k=0.4))):
        pair = [score.look(model("llama_retain"), texts[part]) for part in ("forget", "holdout")]
        assert pair[0].values == pytest.approx([row[key] for row in stored["forget"]], rel=1e-4)
        named = [replace(t, notes={**t.notes, "subjects": [str(i) for i in range(9)]}) for t in pair]
        area = membership_of(named[0], named[1]).auc.mean
        assert 1 - area == pytest.approx(stored["auc"][f"forget_holdout_{key}"], abs=1e-12)
