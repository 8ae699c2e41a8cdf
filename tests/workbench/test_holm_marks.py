"""The marks of equivalence after Holm: in pictures, tables and reports; none where nothing was adjusted."""

import json

import pytest

from tests.workbench.test_figures import report
from tests.workbench.test_figures_tradeoff import claim
from workbench.evidence import AuditReport, Evidence
from workbench.figures import alt_text, forest, table_of
from workbench.figures_claims import one_claim
from workbench.figures_style import RING_WORDS, equivalence_words, holm_mark
from workbench.report import read_report, write_report
from workbench.report_schema import schema


def after_holm(name: str, p: float, after: float, over: int | None = 3) -> Evidence:
    update = {"p_unadjusted": p, "p_equivalence": after, "holm_over": over}
    return claim(name, "outputs", 0.1, 0.1).model_copy(update=update)


SHOWN = after_holm("direct", 0.001, 0.003)
LOST = after_holm("probability", 0.02, 0.06)
"""Shown before the adjustment, not after it."""
BESIDE = after_holm("format", 0.001, 0.001, None)
"""No primary claim."""


def rings(figure) -> list[str]:
    return [y for s in figure.data if s.marker.symbol == "circle-open" for y in s.y if s.x[0] is not None]


def test_only_what_holds_after_the_adjustment_is_ringed():
    figure = forest(report((SHOWN, LOST, BESIDE)))
    assert rings(figure) == ["direct"]
    assert RING_WORDS in [s.name for s in figure.data]
    assert "after Holm over 3 primary claims): direct; of 2 tested here" in alt_text(figure)
    ticks = dict(zip(figure.layout.yaxis.tickvals, figure.layout.yaxis.ticktext, strict=True))
    assert ticks["direct"].endswith("≡ p 0.003") and ticks["probability"].endswith("</b> p 0.06")
    assert " p " not in ticks["format"]
    table = table_of(figure).set_index("claim")
    assert table.loc["direct", ["p of equivalence", "p after Holm"]].tolist() == [0.001, 0.003]
    assert table.loc["format", "p of equivalence"] == 0.001 and table["p after Holm"].isna()["format"]


def test_without_a_tested_claim_there_is_no_ring_and_no_word_of_it():
    figure = forest(report((BESIDE, claim("near", "utility", 0.9, 0.9))))
    assert rings(figure) == [] and RING_WORDS not in [s.name for s in figure.data]
    assert "equivalent" not in alt_text(figure)


def test_one_claim_of_many_audits_marks_each_audit_by_its_own_test():
    audits = {"one": report((SHOWN,)), "two": report((LOST.model_copy(update={"claim": "direct"}),))}
    figure = one_claim(audits, "direct", "one")
    assert rings(figure) == ["one"]
    assert "after Holm: one." in alt_text(figure)
    assert sorted(figure.layout.yaxis.ticktext) == ["<b>▸ one</b>  ≡ p 0.003", "two  p 0.06"]


def test_the_words_say_whether_p_was_adjusted():
    assert equivalence_words(SHOWN) == "≡ p 0.003 after Holm over 3, 0.001 before"
    assert equivalence_words(LOST) == "p 0.06 after Holm over 3, 0.02 before"
    assert equivalence_words(BESIDE) == "p 0.001, not adjusted"
    assert equivalence_words(claim("near", "utility", 0.9, 0.9)) == "–"
    assert holm_mark(BESIDE) == ""


def test_a_report_of_an_older_version_loads_and_bears_no_mark(tmp_path):
    write_report(report((SHOWN, BESIDE)), tmp_path)
    assert "≡ p 0.003 after Holm over 3" in (tmp_path / "report.html").read_text()
    assert "≡ p 0.003 after Holm over 3" in (tmp_path / "report.md").read_text().replace("\\", "")
    assert read_report(tmp_path).of("direct").equivalent is True
    written = json.loads((tmp_path / "report.json").read_text())
    for e in written["evidence"]:
        del e["p_unadjusted"], e["holm_over"]
    (tmp_path / "report.json").write_text(json.dumps(written))
    old = read_report(tmp_path)
    assert old.of("direct").equivalent is None and rings(forest(old)) == []
    assert equivalence_words(old.of("direct")) == "p 0.003"


@pytest.mark.parametrize("field", ["p_unadjusted", "holm_over"])
def test_the_published_form_has_the_new_fields_and_requires_none(field):
    evidence = schema()["$defs"]["Evidence"]
    assert evidence["properties"][field]["description"]
    assert field not in evidence["required"] or schema()["properties"]["schema_version"]["default"] == 1
    assert AuditReport.model_json_schema()["$defs"]["Evidence"]["properties"][field]["default"] is None
