"""The trade-off page: what is picked fills the table and the URL, groups come from the shelf, marks from the report."""

from tests.app.conftest import alts, change, figures, resign, said
from workbench.checkpoint import file_digest
from workbench.report import read_report
from workbench.store import RunFolder


def picked(at) -> list[str]:
    return at.dataframe[0].value["run"].tolist()


def test_marks_that_are_picked_fill_the_table_and_the_url(app, full):
    at = app(full, "tradeoff", run="one")
    assert sorted(picked(at)) == ["more/two", "one"] and "runs" not in at.query_params
    at.multiselect(key="runs").set_value(["more/two"]).run()
    assert picked(at) == ["more/two"] and "more/two" in at.query_params["runs"]
    again = app(full, "tradeoff", run="one", runs=["more/two"])
    assert not again.error and picked(again) == ["more/two"]
    assert any(s.get("name") == "in the table" for s in figures(again)[0]["data"])


def test_a_run_in_the_link_that_is_not_there_is_named(app, full):
    at = app(full, "tradeoff", run="one", runs=["one", "elsewhere"])
    assert len(at.error) == 1 and "'elsewhere'" in said(at) and "(runs=…)" in said(at)


def test_how_a_checkpoint_was_made_is_found_on_the_shelf(app, full, ablated_folder):
    at = app(full, "tradeoff", run="one", by="method")
    assert "not recorded (2)" in alts(at)[0] and "Not recorded: no finished run" in said(at)
    method = {"method": "interventions.concept_ablation:ConceptAblation", "seed": 7}
    with RunFolder.claim(full / "made", {"verb": "unlearn", "method": method}).running() as run:
        (run.path / "checkpoint").mkdir()
        for file in ablated_folder.iterdir():
            if file.is_file():
                (run.path / "checkpoint" / file.name).write_bytes(file.read_bytes())
    assert file_digest(full / "made/checkpoint/model.safetensors") == file_digest(ablated_folder / "model.safetensors")
    at = app(full, "tradeoff", run="one", by="seed")
    assert "By seed: 7 (2)" in alts(at)[0] and set(at.dataframe[0].value["method"]) == {"ConceptAblation"}


def test_marks_after_holm_stand_in_the_forest_and_in_the_overview(app, full):
    def tested(report: dict) -> None:
        for e in report["evidence"]:
            if e["claim"] == "direct":
                e.update(p_unadjusted=0.001, p_equivalence=0.004, holm_over=4)

    change(full / "one", "report.json", tested)
    resign(full / "one")
    at = app(full, "tradeoff", run="one", claim="direct")
    assert "Shown equivalent to the reference after Holm: one." in alts(at)[-1]
    assert "≡ and a ring mark what is at most 0.05" in said(at)
    table = app(full, run="one").dataframe[0].value.set_index("claim")["after Holm"]
    assert table["direct"] == "≡ p 0.004" and table["far"] == "–"


def test_without_a_tested_claim_the_page_says_why_there_is_no_mark(app, full):
    assert all(e.p_equivalence is None for e in read_report(full / "one").evidence if e.axis == "utility")
    at = app(full, "tradeoff", run="one", claim="near")
    assert "No marks: equivalence is tested against a retrained reference" in said(at)
