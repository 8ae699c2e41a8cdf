"""The numbers papers report, on hand-made readings whose truth is known, and in a whole audit of planted models."""

from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

from audits.behaviour.answers import AnswerProbability
from audits.behaviour.options import TruthRatio
from audits.behaviour.tofu_losses import TofuLosses
from audits.metrics.forget_quality import forget_quality
from audits.metrics.membership import membership_of
from audits.metrics.model_utility import TofuSet, model_utility, tofu_utility
from audits.metrics.privleak import privleak
from audits.metrics.truth_ratio import truth_ratio
from audits.standard_numbers import any_value, standard_numbers, utility_parts
from workbench.concepts import FactSet
from workbench.demo.planted import Planted
from workbench.errors import BadInput
from workbench.evidence import StandardNumber
from workbench.model import HookedModel
from workbench.trace import Trace

N = 12


def losses(seed: int, wrong: int = 3, reworded: bool = True, ends: bool = True, shift: float = 0.0) -> Trace:
    """Losses drawn at random; the right answers' raised by `shift`."""
    values = np.random.default_rng(seed).uniform(0.5, 3.0, (N, 2 + wrong, 2))
    values[:, :2] += shift
    if not reworded:
        values[:, 1] = np.nan
    if not ends:
        values[..., 1] = np.nan
    answers = ("answer", "reworded", *(f"wrong {i}" for i in range(wrong)))
    labels = {"fact": tuple(map(str, range(N))), "answer": answers, "end": ("without", "with")}
    return Trace("tofu_losses", values, ("fact", "answer", "end"), "nats per token", labels, {})


def scores(name: str, values: np.ndarray) -> Trace:
    subjects = [f"s{i // 2}" for i in range(len(values))]
    notes = {"subjects": subjects, "identity": "one", "options": {}}
    return Trace(name, values, ("fact",), "?", {"fact": tuple(map(str, range(len(values))))}, notes)


def model(seed: int, member: float = 0.0, shift: float = 0.0) -> dict[str, Trace]:
    """All readings of one model; `member` lowers the forget facts' membership scores."""
    rng, hard = np.random.default_rng(100 + seed), np.random.default_rng(7)  # how hard a text is, for every model
    return {
        **{f"tofu_losses.{name}": losses(seed + i, shift=shift) for i, name in enumerate(("forget", "near", "far"))},
        **{f"rouge_l.{name}": scores("rouge_l", rng.uniform(0.2, 1.0, N)) for name in ("near", "far")},
        "membership_min_k.forget": scores("membership_min_k", rng.normal(5 - member, 1, N)),
        "membership_min_k.never_taught": scores("membership_min_k", rng.normal(5, 1, N)),
        "membership_loss.forget": scores("membership_loss", hard.normal(5, 4, N) + rng.normal(-member, 0.2, N)),
        "membership_loss.never_taught": scores("membership_loss", hard.normal(5, 4, N) + rng.normal(0, 0.2, N)),
    }


def named(numbers: tuple[StandardNumber, ...]) -> dict[str, StandardNumber]:
    return {n.name: n for n in numbers}


def parts(trace: Trace, published: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    values = trace.values[..., int(published)]
    return values[:, 0], values[:, 1], values[:, 2:]


PAPER, CODE = "paper", "published code"


@pytest.mark.parametrize(("variant", "published"), [(PAPER, False), (CODE, True)])
def test_forget_quality_is_the_published_test_of_the_stored_truth_ratios(variant: str, published: bool) -> None:
    after, base, reference = model(0), model(10, shift=-2.0), model(20)
    found = named(standard_numbers(after, base, reference))[f"forget quality ({variant})"]
    ratios = [truth_ratio(*parts(r["tofu_losses.forget"], published)[1:], published) for r in (after, base, reference)]
    assert found.value == forget_quality(ratios[0], ratios[2]).p_value
    assert found.base == forget_quality(ratios[1], ratios[2]).p_value
    assert found.reference is None and found.why_missing is None
    assert f"{N} of {N} forget facts" in found.entered


def test_the_two_variants_of_forget_quality_differ_and_a_model_that_knows_is_told_apart() -> None:
    knows, gone, reference = model(0, shift=-3.0), model(1), model(2)
    far_off = named(standard_numbers(knows, knows, reference))
    near_by = named(standard_numbers(gone, knows, reference))
    for name in (f"forget quality ({PAPER})", f"forget quality ({CODE})"):
        assert far_off[name].value < 0.01 < near_by[name].value
        assert near_by[name].base == far_off[name].value
    assert named(standard_numbers(reference, knows, reference))[f"forget quality ({PAPER})"].value == 1.0
    assert near_by[f"forget quality ({PAPER})"].value != near_by[f"forget quality ({CODE})"].value


def test_each_variant_takes_its_own_mean_of_the_wrong_answers_and_its_own_end() -> None:
    """The geometric means agree and the arithmetic ones do not; then the losses differ in the end alone."""
    ours, theirs = losses(0, wrong=2), losses(0, wrong=2)
    ours.values[:, 2:], theirs.values[:, 2:] = np.array([0.1, 5.9])[:, None], 3.0

    def both(one: Trace, other: Trace) -> list[float | None]:
        found = standard_numbers({"tofu_losses.forget": one}, {}, {"tofu_losses.forget": other})
        return [number.value for number in found[:2]]

    paper, code = both(ours, theirs)
    assert paper < 0.01 and code == 1.0
    ending = losses(0, wrong=2)
    ending.values[:, 2:] = 3.0
    ending.values[:, 1, 1] += 4.0
    paper, code = both(ending, theirs)
    assert paper == 1.0 and code < 0.01


def test_where_there_is_no_other_wording_the_answer_itself_is_compared() -> None:
    plain, worded = losses(0, reworded=False), losses(0)
    worded.values[:, 1] = plain.values[:, 0]
    found = [
        standard_numbers({"tofu_losses.forget": t}, {}, {"tofu_losses.forget": losses(5)})[0] for t in (plain, worded)
    ]
    assert found[0] == found[1] and found[0].value is not None


@pytest.mark.parametrize(("variant", "published"), [(PAPER, False), (CODE, True)])
def test_utility_is_the_harmonic_mean_of_tofus_scores(variant: str, published: bool) -> None:
    after, base, reference = model(0), model(10), model(20)
    found = named(standard_numbers(after, base, reference))[f"model utility, TOFU-style ({variant})"]

    def expected(read: dict[str, Trace]) -> float:
        near, far = (
            TofuSet(*parts(read[f"tofu_losses.{name}"], published), read[f"rouge_l.{name}"].values)
            for name in ("near", "far")
        )
        both = {f"near {k}": v for k, v in near.scores(False, published=published).items()}
        return model_utility(both | {f"far {k}": v for k, v in far.scores(True, published=published).items()})

    assert found.value == pytest.approx(expected(after), rel=1e-12)
    assert found.base == pytest.approx(expected(base), rel=1e-12)
    assert found.reference == pytest.approx(expected(reference), rel=1e-12)
    assert found.entered.startswith("6 of 6 scores") and "not there" not in found.entered
    # with far facts as both of TOFU's outer sets the nine scores are the six, the far ones counted twice
    near, far = (
        TofuSet(*parts(after[f"tofu_losses.{name}"], published), after[f"rouge_l.{name}"].values)
        for name in ("near", "far")
    )
    own = [part.score for part in utility_parts(after, published).values()]
    nine = 9 / (sum(1 / s for s in own[:3]) + 2 * sum(1 / s for s in own[3:]))
    assert tofu_utility(near, far, far, published) == pytest.approx(nine, rel=1e-12)


def test_what_was_not_read_is_left_out_of_utility_and_named() -> None:
    after = model(0)
    del after["rouge_l.far"]
    after["tofu_losses.near"] = replace(after["tofu_losses.near"], values=after["tofu_losses.near"].values.copy())
    after["tofu_losses.near"].values[:, 2:] = np.nan  # no near fact has wrong answers
    after["tofu_losses.far"].values[:4, 2:] = np.nan  # nor have four of the far ones
    found = named(standard_numbers(after, model(10), None))[f"model utility, TOFU-style ({PAPER})"]
    assert found.entered.startswith("4 of 6 scores")
    assert found.entered.endswith("not there: near truth ratio, far ROUGE-L recall")
    own = utility_parts(after, published=False)
    assert {name: part.n for name, part in own.items()} == {
        "near probability": N,
        "near ROUGE-L recall": N,
        "far probability among options": N - 4,
        "far truth ratio": N - 4,
    }
    right, _, wrong = parts(after["tofu_losses.far"], published=False)
    share = np.exp(-right[4:]) / (np.exp(-right[4:]) + np.exp(-wrong[4:]).sum(axis=1))
    assert own["far probability among options"].score == pytest.approx(share.mean())
    assert found.value == pytest.approx(model_utility({k: v.score for k, v in own.items()}))
    assert found.base is not None and found.reference is None
    short = model(10)
    del short["tofu_losses.far"]
    beside = named(standard_numbers(after, short, None))[f"model utility, TOFU-style ({PAPER})"]
    assert (beside.base, beside.value) == (None, found.value)


def test_privleak_is_held_against_the_reference() -> None:
    knows, gone, reference = model(0, member=4.0), model(1), model(2)
    found = named(standard_numbers(knows, knows, reference))["PrivLeak"]
    ours, theirs = (
        membership_of(r["membership_min_k.forget"], r["membership_min_k.never_taught"]).auc.mean
        for r in (knows, reference)
    )
    assert found.value == found.base == pytest.approx(privleak(ours, theirs))
    assert found.value < -80  # still members
    low, high = found.interval
    assert low <= found.value <= high
    other = named(standard_numbers(gone, knows, reference))["PrivLeak"]
    assert abs(other.value) < 80 and other.base == found.value
    assert named(standard_numbers(reference, knows, reference))["PrivLeak"].value == 0


def test_the_reference_attack_sees_what_the_difficulty_of_texts_hides_from_the_loss() -> None:
    name = "membership by the reference attack"
    knows, gone, reference = model(0, member=1.0), model(1), model(2)
    found = named(standard_numbers(knows, knows, reference))[name]
    plain = membership_of(knows["membership_loss.forget"], knows["membership_loss.never_taught"]).auc.mean
    assert found.value == found.base and found.value > 0.95 > plain + 0.2
    assert found.interval[0] <= found.value <= found.interval[1]
    clean = named(standard_numbers(gone, knows, reference))[name]
    assert 0.2 < clean.value < 0.8 and clean.base == found.value
    assert named(standard_numbers(reference, knows, reference))[name].value == 0.5
    assert "--reference" in named(standard_numbers(gone, knows, None))[name].why_missing
    del gone["membership_loss.never_taught"]
    assert "never-taught facts" in named(standard_numbers(gone, knows, reference))[name].why_missing


def test_without_a_reference_there_is_no_forget_quality_and_no_privleak() -> None:
    found = named(standard_numbers(model(0), model(1), None))
    for name in (f"forget quality ({PAPER})", f"forget quality ({CODE})", "PrivLeak"):
        assert found[name].value is None
        assert "--reference" in found[name].why_missing
    assert found[f"model utility, TOFU-style ({PAPER})"].value is not None
    ignored = named(standard_numbers(model(0), model(1), None, ignored="it knows the facts"))
    assert "it knows the facts" in ignored["PrivLeak"].why_missing


def test_each_missing_piece_is_a_reason_of_its_own() -> None:
    def why(after: dict[str, Trace], name: str) -> str:
        found = named(standard_numbers(after, model(1), model(2)))
        assert found[name].value is None
        return found[name].why_missing or ""

    after = model(0)
    after["tofu_losses.forget"] = losses(0, wrong=0)
    assert "no forget fact has wrong answers" in why(after, f"forget quality ({PAPER})")
    after["tofu_losses.forget"] = losses(0, ends=False)
    assert "end-of-text" in why(after, f"forget quality ({CODE})")
    assert named(standard_numbers(after, model(1), model(2)))[f"forget quality ({PAPER})"].value is not None
    del after["tofu_losses.forget"]
    assert "tofu_losses.forget" in why(after, f"forget quality ({PAPER})")
    del after["membership_min_k.never_taught"]
    assert "never-taught facts" in why(after, "PrivLeak")
    assert "--suite full" in why({}, "PrivLeak")
    assert "--suite full" in why({}, f"model utility, TOFU-style ({PAPER})")
    assert not any_value(standard_numbers({}, {}, None))
    after["rouge_l.near"] = scores("rouge_l", np.array(["no number"] * 3, dtype=object))  # a damaged reading
    assert "could not be computed" in why(after, f"model utility, TOFU-style ({PAPER})")


def test_a_number_without_a_reason_for_its_absence_is_refused() -> None:
    head = {"name": "x", "unit": "", "source": ""}
    for wrong in ({}, {"value": 0.5, "why_missing": "because"}):
        with pytest.raises(ValidationError, match="why_missing"):
            StandardNumber(**head, **wrong)


# ---- read of models


@pytest.fixture(scope="module")
def opened(planted: Planted) -> tuple[HookedModel, FactSet]:
    return HookedModel(planted.model, planted.tokenizer, check=False), planted.concept.forget


def test_the_losses_agree_with_the_readings_that_take_one_each(opened) -> None:
    model, facts = opened
    trace = TofuLosses().look(model, facts)
    assert trace.labels["answer"][:2] == ("answer", "reworded")
    assert np.isnan(trace.values[:, 1]).all()  # there is no other wording
    for published in (False, True):
        right, _, wrong = parts(trace, published)
        own = AnswerProbability(normalise="token", published=published).look(model, facts)
        np.testing.assert_allclose(np.exp(-right), own.values, rtol=1e-5)
        ratio = TruthRatio(score="ratio", published=published).look(model, facts)
        np.testing.assert_allclose(truth_ratio(right, wrong, published), ratio.values, rtol=1e-4)
    assert (trace.values[:, 0, 0] != trace.values[:, 0, 1]).all()  # the end does count


def test_a_fact_without_rewording_or_wrong_answers_has_no_number_there(opened) -> None:
    model, facts = opened
    plain = facts.facts[0].model_copy(update={"distractors": ()})
    rich = facts.facts[1].model_copy(update={"reworded_answer": facts.facts[1].distractors[0]})
    trace = TofuLosses().look(model, FactSet(name="two", facts=(plain, rich)))
    assert np.isfinite(trace.values[0, 0]).all() and np.isnan(trace.values[0, 1:]).all()
    np.testing.assert_allclose(trace.values[1, 1], trace.values[1, 2])  # the same words
    with pytest.raises(BadInput):
        TofuLosses().look(model, FactSet(name="none"))
