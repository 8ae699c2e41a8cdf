"""Pictures of many audits: the front, the sides that are better, and every number drawn."""

import pytest

from tests.workbench.test_figures import report
from workbench.evidence import AuditReport, Estimate, Evidence, Role
from workbench.figures_claims import FURTHEST, all_claims, one_claim, worse_by
from workbench.figures_style import alt_text, table_of
from workbench.figures_tradeoff import comparable, less_is_better, tradeoff


def about(mean: float) -> Estimate:
    return Estimate(mean=mean, low=mean - 0.05, high=mean + 0.05, n=10, clusters=5)


def claim(name: str, axis: str, mean: float, control: float, metric: str = "share of facts") -> Evidence:
    return Evidence(
        claim=name,
        question=f"{name}?",
        axis=axis,
        rung=None if axis == "utility" else 1,
        metric=metric,
        value=about(mean),
        before=about(1.0),
        reference=about(control),
        difference=about(mean - control),
        compared_with="reference",
        margin=0.1,
        status="PASS",
    )


def audit(name: str, forget: float, near: float, loss: float = 2.0) -> AuditReport:
    evidence = (
        claim("direct", "outputs", forget, 0.1),
        claim("near", "utility", near, 0.9),
        claim("fluency", "utility", loss, 2.0, "nats per token"),
    )
    digests = {"checkpoint": name, "base": "b", "reference": "r"}
    roles = {role: Role(name=digest, digest=digest) for role, digest in digests.items()}
    return report(evidence).model_copy(update={"roles": roles})


AUDITS = {
    "best": audit("best", 0.1, 0.9),
    "gentle": audit("gentle", 0.5, 0.95),
    "beaten": audit("beaten", 0.6, 0.9),
    "broken": audit("broken", 0.0, 0.2, 5.0),
}


def front(figure) -> set[float]:
    return set(next(series for series in figure.data if series.name == "front").x)


def test_the_front_holds_what_nothing_beats():
    figure = tradeoff(AUDITS, "direct", "near", "best")
    assert front(figure) == {0.1, 0.5, 0.0}
    assert "On the front" in alt_text(figure) and "beaten" not in alt_text(figure)


def test_better_is_right_and_up_whatever_the_unit():
    figure = tradeoff(AUDITS, "direct", "near")
    assert figure.layout.xaxis.range[0] > figure.layout.xaxis.range[1]
    assert figure.layout.yaxis.range[0] < figure.layout.yaxis.range[1]
    loss = tradeoff(AUDITS, "direct", "fluency")
    assert loss.layout.yaxis.range[0] > loss.layout.yaxis.range[1]
    assert front(loss) == {0.1, 0.0}


def test_every_audit_is_drawn_once_and_the_roles_beside_them():
    table = table_of(tradeoff(AUDITS, "direct", "near", "gentle"))
    assert sorted(table["audit"].dropna()) == sorted(AUDITS)
    assert table.loc[table["series"] == "Run A", "audit"].tolist() == ["gentle"]
    assert set(table["series"]) == {"audits", "Run A", "base", "reference"}
    assert table.loc[table["series"] == "reference", "direct"].tolist() == [0.1]


def test_an_audit_without_the_claim_is_left_out_aloud():
    silent = AUDITS | {"silent": report(())}
    assert "1 audits lack one of the two" in alt_text(tradeoff(silent, "direct", "near"))
    assert "No audit has measured both" in alt_text(tradeoff({"silent": report(())}, "direct", "near"))


@pytest.mark.parametrize("chosen", ["<img src=x>", ""])
def test_names_of_models_are_no_markup(chosen):
    audits = {"<img src=x>": AUDITS["best"]}
    drawn = [
        tradeoff(audits, "direct", "near", chosen),
        all_claims(audits, chosen),
        one_claim(audits, "direct", chosen),
    ]
    for figure in drawn:
        assert "<img" not in str(figure.to_dict()) and "&lt;img" in str(figure.to_dict())
    assert "<img src=x>" in str(table_of(drawn[1]).to_numpy())


@pytest.mark.parametrize(("name", "margins"), [("best", [0, 0, 0]), ("broken", [-1, 7, 30]), ("gentle", [4, -0.5, 0])])
def test_worse_is_counted_in_margins_and_up(name, margins):
    assert [worse_by(e) for e in AUDITS[name].evidence] == pytest.approx(margins)
    table = table_of(all_claims(AUDITS, name))
    own = table[table["series"] == name]
    assert own["margins worse"].tolist() == pytest.approx(margins)
    assert own["margins drawn"].max() <= FURTHEST


def test_loss_counts_as_less_is_better():
    direct, near, fluency = AUDITS["best"].evidence
    assert less_is_better(direct) and less_is_better(fluency) and not less_is_better(near)


def test_one_claim_puts_the_best_on_top():
    figure = one_claim(AUDITS, "near", "best")
    assert list(figure.layout.yaxis.categoryarray) == ["broken", "best", "beaten", "gentle"] or list(
        figure.layout.yaxis.categoryarray
    ) == ["broken", "beaten", "best", "gentle"]
    assert "Best: gentle" in alt_text(figure) and "worst: broken" in alt_text(figure)
    assert "No audit has measured" in alt_text(one_claim(AUDITS, "lens"))


def test_only_audits_of_one_concept_base_and_margins_compare():
    own = AUDITS["best"]
    assert comparable(own) == comparable(AUDITS["broken"])
    for change in ({"concept_digest": "other"}, {"margins_digest": "other"}, {"roles": {}}):
        assert comparable(own.model_copy(update=change)) != comparable(own)
