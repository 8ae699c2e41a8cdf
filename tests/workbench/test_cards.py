"""What Jupyter shows for a claim: its card, its picture, its row; names and model text stay text."""

from typing import Any

import pytest

from workbench.evidence import AuditReport, Estimate, Evidence, Role
from workbench.figures import forest, forest_of, ladder, table_of

HOSTILE = "<script>alert('x')</script><img src=x onerror=alert(1)>"


def estimate(mean: float) -> Estimate:
    return Estimate(mean=mean, low=mean - 0.0625, high=mean + 0.125, n=37, clusters=5)


def claim(**given: Any) -> Evidence:
    usual: dict[str, Any] = {
        "claim": "lens",
        "question": "Can a layer say it?",
        "axis": "decodability",
        "rung": 3,
        "metric": "share of facts",
        "value": estimate(0.5),
        "before": estimate(0.75),
        "difference": estimate(0.25),
        "compared_with": "reference",
        "margin": 0.1,
        "status": "FAIL",
    }
    return Evidence(**usual | given)


UNREAD = claim(value=None, before=None, difference=None, margin=None, status="NOT_RUN", why_missing="needs a reference")


def report(*evidence: Evidence) -> AuditReport:
    return AuditReport(
        concept="demo:x",
        concept_digest="0" * 64,
        counts={"forget": 37},
        roles={"checkpoint": Role(name="c", digest="1" * 64)},
        level=1,
        capped_by="U3: lens fails",
        utility="intact",
        utility_reason="near",
        evidence=evidence,
        options={},
        margins_digest="2",
        environment={},
        made_at="2026-01-01T00:00:00Z",
        run_id="abc",
    )


def test_card_of_a_claim_says_how_it_came_out_and_every_estimate() -> None:
    html = claim(where="L2", detectable=0.03125)._repr_html_()
    for said in ("lens", "Can a layer say it?", "✕ fail", "needed for U3", "0.5", "[0.438, 0.625]", "37", "±0.1"):
        assert said in html, said
    for said in ("before", "difference to reference", "read at L2", "0.0312"):
        assert said in html, said
    assert "floor" not in html and "not measured" not in html


def test_card_of_a_claim_without_a_rung_a_margin_and_a_control() -> None:
    html = claim(rung=None, margin=None, difference=None, compared_with="", status="PASS")._repr_html_()
    assert "needed for" not in html and "margin ±" not in html and "difference" not in html and "✓ pass" in html


def test_card_of_a_claim_that_was_not_run_says_why_and_shows_no_number() -> None:
    html = UNREAD._repr_html_()
    assert "not measured: needs a reference" in html and "– not run" in html
    assert "<table" not in html and "0.0" not in html


@pytest.mark.parametrize("field", ["claim", "question", "axis", "metric", "where", "note", "compared_with"])
def test_text_of_a_claim_stays_text(field: str) -> None:
    html = claim(**{field: HOSTILE})._repr_html_()
    assert "&lt;script" in html and "<script" not in html and "<img" not in html


def test_reason_of_a_missing_claim_stays_text() -> None:
    html = UNREAD.model_copy(update={"why_missing": HOSTILE})._repr_html_()
    assert "&lt;script" in html and "<script" not in html and "<img" not in html


def test_row_of_a_claim_is_its_row_in_the_report() -> None:
    one, other = claim(), claim(claim="probe", status="PASS")
    whole = report(one, other).to_frame()
    for position, evidence in enumerate((one, other)):
        row = evidence.to_frame()
        assert len(row) == 1 and list(row.columns) == list(whole.columns)
        assert row.iloc[0].dropna().to_dict() == whole.iloc[position].dropna().to_dict()


def test_picture_of_a_claim_is_its_row_of_the_forest() -> None:
    one, other = claim(), claim(claim="probe", difference=estimate(0.5))
    drawn = table_of(one.plot())
    assert drawn[["claim", "difference", "low", "high", "margin"]].values.tolist() == [
        ["lens", 0.25, 0.1875, 0.375, 0.1]
    ]
    whole = table_of(forest(report(one, other)))
    assert sorted(whole["claim"]) == ["lens", "probe"]
    assert forest(report(one, other)).to_dict() == forest_of([one, other]).to_dict()


def test_picture_of_a_claim_that_was_not_run_says_so() -> None:
    figure = UNREAD.plot()
    assert not figure.data and "No claim has a measured difference" in figure.layout.meta["alt"]


def test_text_in_the_picture_of_a_claim_is_no_link() -> None:
    figure = claim(question="<a href='https://evil.example'>click</a>").plot()
    assert "<a href" not in figure.to_json() and "&lt;a href" in " ".join(figure.layout.yaxis.ticktext)


def test_picture_of_a_report_is_its_ladder() -> None:
    made = report(claim())
    assert made.plot().to_dict() == ladder(made).to_dict()
