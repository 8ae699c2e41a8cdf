import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from interventions.guards.guard_decoding import GuardDecoding
from interventions.guards.prompt_classifier import logistic
from interventions.guards.prompts import Halves, fires, line_between, rates, require_telling, warning, worded
from workbench.concepts import FactSet
from workbench.errors import BadInput
from workbench.sites import Site


def test_the_regression_is_scikit_learns_on_standardised_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    positive, negative = (torch.randn(n, 6, generator=generator).double() * 3 + n / 20 for n in (12, 30))
    weight, bias = logistic(positive, negative, 0.5)
    rows = torch.cat([positive, negative]).numpy()
    scaled = StandardScaler().fit_transform(rows) * (41 / 42) ** 0.5  # sample deviation
    known = LogisticRegression(C=0.5, class_weight="balanced", max_iter=1000).fit(scaled, np.arange(42) < 12)
    assert np.allclose(rows @ weight.numpy() + float(bias), known.decision_function(scaled), atol=1e-6)


def test_a_feature_that_does_not_vary_gets_no_weight() -> None:
    rows = torch.tensor([[0.0, 7], [1, 7], [2, 7], [3, 7]]).double()
    weight, _ = logistic(rows[2:], rows[:2], 1.0)
    assert weight[0] > 0 and weight[1] == 0


@pytest.mark.parametrize(
    "low, high, line",
    [
        ([1.0, 2.0], [4.0, 5.0], 3.0),
        ([1.0, 2.0, 9.0], [4.0, 5.0], 3.0),  # one that lies among the others is given up
        ([1.0], [0.0, 3.0], 2.0),
        ([1.0, 3.0], [2.0, 4.0], 1.5),  # a tie: the lower line
        ([2.0], [2.0], 2.0),
    ],
)
def test_the_line_lies_half_way_where_the_balanced_accuracy_is_best(low, high, line) -> None:
    assert line_between(torch.tensor(low), torch.tensor(high)) == line


def test_halves_share_nothing_and_leave_two_to_fit(dense_bench) -> None:
    facts = worded(dense_bench.concept.forget.facts, True)
    assert len(facts) == 30
    halves = Halves.of(facts, 0.3, 0)
    assert len(halves.held) == 9 and sorted(f.prompt for f in (*halves.fit, *halves.held)) == sorted(
        f.prompt for f in facts
    )
    assert halves == Halves.of(facts, 0.3, 0) != Halves.of(facts, 0.3, 1)
    assert [len(part) for part in (Halves.of(facts[:4], 0.99, 0).fit, Halves.of(facts[:4], 0.01, 0).held)] == [2, 1]


def test_it_fires_on_the_prompts_to_forget_and_on_no_other(bench) -> None:
    trigger, notes = GuardDecoding().trigger(bench.model, bench.concept, None)
    assert float(fires(bench.model, trigger, bench.concept.forget.facts).double().mean()) == 1
    for kept in ("near", "far"):
        assert float(fires(bench.model, trigger, getattr(bench.concept, kept).facts).double().mean()) <= 0.05
    assert notes["fires on"]["forget, other formats"]["n"] == 20
    unknown = notes["fires on"]["never taught"]["share"]
    assert ("never taught" in notes["warning"]) == (unknown > 0.1)
    assert notes["fires on"]["forget, held out"] == {"share": 1.0, "n": 9}


def test_a_middle_layer_can_be_looked_at_instead(bench) -> None:
    trigger, notes = GuardDecoding().trigger(bench.model, bench.concept, [Site(1, "resid_post")])
    assert str(trigger.site) == notes["site"] == "L1.resid_post"
    assert notes["balanced accuracy, held out"] >= 0.9


def test_words_put_before_the_prompt_thin_it_out(dense_bench) -> None:
    """The classifier sees a mean: enough other words, and the fact is said again."""
    edit = GuardDecoding().fit(dense_bench.model, dense_bench.concept)
    plain = dense_bench.concept.forget.facts
    long = [f.model_copy(update={"prompt": "We all know the river . " * 6 + f.prompt}) for f in plain]
    assert fires(dense_bench.model, edit.trigger, plain).all()
    assert fires(dense_bench.model, edit.trigger, long).double().mean() <= 0.5


def test_prompts_that_are_the_same_cannot_be_told_apart(dense_bench) -> None:
    same = dense_bench.concept.model_copy(update={"near": dense_bench.concept.forget, "far": FactSet(name="none")})
    with pytest.raises(BadInput, match="does not tell them apart"):
        GuardDecoding().fit(dense_bench.model, same)
    forced = GuardDecoding(force=True).fit(dense_bench.model, same)
    assert forced.notes["balanced accuracy, held out"] <= 0.75 and forced.notes["warning"]


def test_too_few_prompts_are_refused(dense_bench) -> None:
    few = dense_bench.concept.model_copy(update={"forget": dense_bench.concept.forget.take([0, 1], "few")})
    with pytest.raises(BadInput, match="at least 4"):
        GuardDecoding(paraphrases=False).fit(dense_bench.model, few)


def test_the_retain_set_is_used_where_there_is_one(dense_bench) -> None:
    concept = dense_bench.concept
    with_retain = concept.model_copy(update={"retain": concept.far})
    _, notes = GuardDecoding().trigger(dense_bench.model, with_retain, None)
    assert notes["prompts to keep"] == "retain facts"
    assert notes["fires on"]["keep, held out"]["n"] == round(0.3 * 24)


def found(forget: float, keep: float) -> dict[str, dict[str, float]]:
    return {"forget, held out": {"share": forget, "n": 10}, "keep, held out": {"share": keep, "n": 20}}


def test_half_of_the_prompts_to_keep_is_too_many() -> None:
    assert require_telling(found(1.0, 0.45), "It", False) == pytest.approx(0.775)
    for rate in (found(1.0, 0.5), found(0.5, 0.0), found(0.0, 0.0), found(1.0, 1.0)):
        with pytest.raises(BadInput, match="held-out prompts to keep"):
            require_telling(rate, "It", False)
        assert require_telling(rate, "It", True) <= 0.75


def test_the_warning_names_what_goes_wrong() -> None:
    assert warning(found(1.0, 0.0)) == warning({"near": {"share": None, "n": 0}}) == ""
    assert warning(found(0.8, 0.3)).count("fires on") == 2


def test_rates_are_shares_of_each_set(dense_bench) -> None:
    trigger, _ = GuardDecoding().trigger(dense_bench.model, dense_bench.concept, None)
    mixed = (*dense_bench.concept.forget.facts[:1], *dense_bench.concept.far.facts[:3])
    assert rates(dense_bench.model, trigger, {"a": mixed, "b": ()}) == {
        "a": {"share": 0.25, "n": 4},
        "b": {"share": None, "n": 0},
    }
