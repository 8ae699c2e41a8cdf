"""Every page over an empty store, a full run, a partial run and a damaged run; and what each page must show."""

import json
import re
import shutil

import numpy as np
import pytest

from tests.app.conftest import PAGES, alts, change, figures, resign, said
from workbench.report import read_report
from workbench.shelf import load_trace

ROLES = ("base", "checkpoint", "reference")


@pytest.mark.parametrize("page", PAGES)
def test_an_empty_store_offers_the_command_that_fills_it(app, empty, page):
    at = app(empty, page)
    assert not at.exception and not at.error
    assert "workbench demo" in [code.value for code in at.code]
    assert alts(at) == []


@pytest.mark.parametrize("page", ["overview", "runs"])
def test_a_folder_that_is_not_there_is_an_empty_store(app, tmp_path, page):
    at = app(tmp_path / "nowhere", page)
    assert not at.exception
    assert "workbench demo" in [code.value for code in at.code]


@pytest.mark.parametrize("page", PAGES)
def test_a_full_run_is_shown_without_a_complaint(app, full, page):
    at = app(full, page)
    assert not at.exception and not at.error and not at.warning
    assert at.header[0].value
    assert all(len(alt) > 20 for alt in alts(at))


@pytest.mark.parametrize("page", PAGES)
def test_a_full_run_with_a_second_beside_it(app, full, page):
    at = app(full, page, run="one", cmp="more/two")
    assert not at.exception and not at.error and not at.warning


@pytest.mark.parametrize("page", PAGES)
def test_a_run_in_progress_says_how_far_it_is(app, partial, page):
    at = app(partial, page)
    assert not at.exception and not at.error
    if page != "runs":
        assert "In progress." in said(at)
        assert "reading logit_lens" in said(at)
    else:
        assert at.dataframe[0].value["state"].tolist() == ["running"]


@pytest.mark.parametrize("page", PAGES)
def test_a_damaged_run_bears_a_red_banner_and_no_verdict(app, damaged, page):
    at = app(damaged, page)
    assert not at.exception
    if page == "runs":
        assert at.dataframe[0].value["state"].tolist() == ["damaged"]
        assert at.dataframe[0].value["verdict"].tolist() == ["–"]
        return
    assert not any("U5" in option for option in at.selectbox(key="run").options)
    assert "Damaged run, verdict withheld." in at.error[0].value
    assert "report.json was changed after the run" in said(at)
    assert "U5" not in said(at) and "equivalent to retrained" not in said(at)
    assert not any("dollars" in alt for alt in alts(at))


def test_the_overview_says_the_verdict_as_the_report_does(app, full):
    report = read_report(full / "one")
    at = app(full, run="one")
    assert report.verdict in said(at) and f"other knowledge {report.utility}" in said(at)
    assert alts(at)[0].startswith(f"The report stands at {report.verdict}.")
    table = at.dataframe[0].value
    assert sorted(table["claim"]) == sorted(e.claim for e in report.evidence)
    shown = dict(zip(table["claim"], table["unlearned"], strict=True))
    for e in report.evidence:
        assert np.isnan(shown[e.claim]) if e.value is None else shown[e.claim] == e.value.mean


def test_a_claim_that_was_not_measured_says_why(app, full):
    report = read_report(full / "one")
    lost = next(e for e in report.evidence if e.why_missing)
    at = app(full, run="one", claim=lost.claim)
    assert lost.why_missing.split(".")[0] in said(at)


def test_the_runs_page_lists_nested_runs_and_filters(app, full):
    at = app(full, "runs")
    assert set(at.dataframe[0].value["folder"]) == {"one", "more/two"}
    at = app(full, "runs", q="more/")
    assert at.dataframe[0].value["folder"].tolist() == ["more/two"]
    at = app(full, "runs", q="no such word")
    assert "No run has" in at.info[0].value


def test_what_two_runs_differ_in(app, full):
    change(full / "one", "manifest.json", lambda m: m["environment"]["packages"].update(torch="9.9"))
    at = app(full, "runs", run="one", cmp="more/two")
    told = at.dataframe[1].value
    assert told["what"].tolist() == ["environment.packages.torch"]
    assert told["Run A"].tolist() == ["9.9"]


def silent_outside(run, knowledge: str, at: str) -> None:
    """A report whose direct prompts all fail, with or without knowledge found, written at a time."""

    def quiet(report: dict) -> None:
        report.update(level=1, knowledge=knowledge, found_by=["lens"] if knowledge == "found" else [])
        for e in report["evidence"]:
            if e["rung"] == 1 or (knowledge != "found" and e["status"] == "FAIL"):
                e["status"] = "PASS"

    change(run, "report.json", quiet)
    change(run, "manifest.json", lambda m: m.update(written_at=at))
    resign(run)


def test_the_app_begins_with_the_audit_that_found_hidden_knowledge(app, full):
    silent_outside(full / "one", "undecided", "2026-01-03T00:00:00Z")
    silent_outside(full / "more" / "two", "found", "2026-01-02T00:00:00Z")
    at = app(full)
    box = at.selectbox(key="run")
    assert box.value == "more/two" and "a claim found the knowledge all the same" in box.help
    assert "**Found by lens**" in said(at)
    assert at.query_params["run"] in ("more/two", ["more/two"])
    silent_outside(full / "more" / "two", "undecided", "2026-01-02T00:00:00Z")
    at = app(full)
    assert at.selectbox(key="run").value == "one"  # nothing hidden: the newest
    assert app(full, run="more/two").selectbox(key="run").value == "more/two"


def test_whether_the_knowledge_was_found_stands_in_every_list(app, full):
    silent_outside(full / "one", "found", "2026-01-03T00:00:00Z")
    silent_outside(full / "more" / "two", "not found", "2026-01-02T00:00:00Z")
    runs = app(full, "runs").dataframe[0].value
    assert dict(zip(runs["folder"], runs["knowledge"], strict=True)) == {"one": "found", "more/two": "not found"}
    audits = app(full, "tradeoff", run="one").dataframe[0].value
    told = dict(zip(audits["run"], audits["knowledge"], strict=True))
    assert told == {"one": "found by lens", "more/two": "not found by any claim of U1 to U4"}


def test_a_report_of_an_older_version_does_not_tell_what_was_found(app, full):
    change(full / "one", "report.json", lambda r: [r.pop("knowledge"), r.pop("found_by")])
    resign(full / "one")
    assert "not told by this report, which an older version wrote" in said(app(full, run="one"))


def test_what_changed_inside_leads_to_the_pages(app, full):
    labels = [link.proto.label.replace("\\", "") for link in app(full, run="one").get("page_link")]
    report = read_report(full / "one")
    inside = [e for e in report.evidence if e.axis in ("decodability", "storage", "recoverability") and e.value]
    worst = next(e for e in inside if e.status == "FAIL")
    assert any(label.startswith(worst.question) for label in labels)
    assert sum(label.startswith(e.question) for label in labels for e in inside) == min(6, len(inside))


def drawn(values) -> np.ndarray:
    """An array of a figure: plotly writes numbers as base64."""
    if isinstance(values, dict):
        import base64

        flat = np.frombuffer(base64.b64decode(values["bdata"]), values["dtype"])
        return flat.reshape([int(n) for n in str(values["shape"]).split(",")]) if "shape" in values else flat
    return np.array(values, dtype=float)


def test_the_trace_page_draws_the_stored_numbers(app, full):
    at = app(full, "trace", run="one", kind="mlp_out")
    figure = figures(at)[0]
    maps = [series for series in figure["data"] if series["type"] == "heatmap" and "meta" in series]
    assert [series["meta"]["panel"].removeprefix("mlp_out ") for series in maps][:3] == [
        "before",
        "after",
        "after − before",
    ]
    trace = load_trace(full / "one", "base", "causal_trace.forget")
    rows = [i for i, site in enumerate(trace.labels["site"]) if site.endswith("mlp_out")]
    expected = np.ma.masked_invalid(trace.values[rows]).mean(axis=2).filled(np.nan)
    np.testing.assert_allclose(drawn(maps[0]["z"]), expected)


def test_a_click_on_a_cell_and_the_boxes_lead_to_the_same_view(app, full):
    at = app(full, "trace", run="one")
    key = "picture causal_trace.forget"
    number, marks = next(
        (i, s)
        for i, s in enumerate(figures(at)[0]["data"])
        if isinstance(s.get("meta"), list) and s["meta"][0] == "cell"
    )
    index = next(i for i, x in enumerate(marks["x"]) if x == "last subject" and marks["y"][i] == "1")
    before = said(at)
    assert "Layer 1, last subject" not in before
    by_box = app(full, "trace", run="one", layer="1", tok="last subject")
    assert "Layer 1, last subject" in said(by_box)
    at.session_state[key] = {"selection": {"points": [{"curve_number": number, "point_index": index}]}}
    at.run()
    assert at.session_state[key]["selection"]["points"][0]["point_index"] == index


def test_the_table_under_a_picture_comes_when_it_is_opened(app, full):
    at = app(full, "trace", run="one")
    assert len(at.dataframe) == 0
    at.session_state["numbers causal_trace.forget"] = True
    at.run()
    table = at.dataframe[0].value
    assert {"panel", "layer", "role", "value"} <= set(table.columns)
    assert alts(at)[0] in [text.value for text in at.text]


def test_one_fact_is_not_greyed_and_says_so(app, full):
    at = app(full, "trace", run="one", item="0")
    assert "No noise floor is known here" in alts(at)[0]
    assert "nothing is known of its noise" in said(at)
    assert "inside the noise floor and are grey" in alts(app(full, "trace", run="one"))[0]


def test_a_check_that_was_not_run_is_a_card_with_its_command(app, full):
    for role in ROLES:
        for path in (
            (full / "one" / "traces" / role).glob("causal_trace*") if (full / "one" / "traces" / role).is_dir() else ()
        ):
            path.unlink()
    resign(full / "one")
    at = app(full, "trace", run="one")
    assert not at.exception and not at.error
    assert "Causal trace on forget: not measured" in said(at)
    assert any(code.value.startswith("workbench audit ") and "--base" in code.value for code in at.code)


def test_the_quadrants_add_up_and_choose_the_rows(app, full):
    base = load_trace(full / "one", "base", "accuracy.forget")
    after = load_trace(full / "one", "checkpoint", "accuracy.forget")
    lost = int(((base.values >= 0.5) & (after.values < 0.5)).sum())
    assert lost > 0
    at = app(full, "items", run="one", quad="lost")
    assert f"lost {lost}" in alts(at)[0]
    assert len(at.dataframe[0].value) == lost
    assert set(at.dataframe[0].value["base: right"]) == {1} and set(at.dataframe[0].value["checkpoint: right"]) == {0}


def test_one_item_shows_what_was_read_on_it(app, full):
    at = app(full, "items", run="one", item="0")
    probability = load_trace(full / "one", "base", "answer_probability.forget")
    assert any(alt.startswith("Fact 0, asked in") for alt in alts(at))
    assert any(alt.startswith("Fact 0: share of facts") for alt in alts(at))  # what lies inside: lens, probes
    ways = next(frame.value for frame in at.dataframe if "asked" in frame.value).set_index("asked")
    assert ways.loc["probability of the answer", "base"] == pytest.approx(float(probability.values[0]))
    assert probability.labels["fact"][0] in said(at)


def test_the_recovery_page_draws_curves_and_attacks(app, full):
    at = app(full, "recovery", run="one")
    assert "against relearning steps" in alts(at)[0]
    assert any("under each attack" in alt for alt in alts(at))
    attacks = next(f for f, alt in zip(figures(at), alts(at), strict=True) if "under each attack" in alt)
    own = next(series for series in attacks["data"] if series["name"] == "checkpoint")
    shown = dict(zip(own["y"], drawn(own["x"]), strict=True))
    read = load_trace(full / "one", "checkpoint", "accuracy.forget.jailbreak")
    assert read.notes["n_facts"] < len(read.labels["fact"])  # the rest are facts nobody was taught
    assert shown["Accuracy on forget, under jailbreak"] == pytest.approx(read.values[: read.notes["n_facts"]].mean())

    from workbench.figures_attacks import tries_of

    key = "accuracy.forget.jailbreak"
    tried = tries_of(load_trace(full / "one", "checkpoint", key))
    assert len(tried) > 1 and any("tries: base at most" in alt for alt in alts(at))
    chart = next(f for f, alt in zip(figures(at), alts(at), strict=True) if "tries:" in alt)
    own = next(series for series in chart["data"] if series["name"] == "checkpoint")
    assert drawn(own["x"]).tolist() == [share for share, _ in tried.values()]
    even = app(full, "recovery", run="one", spacing="evenly")
    assert figures(even)[0]["layout"]["xaxis"]["type"] == "category"


def test_the_report_page_holds_the_files_of_the_run(app, full):
    at = app(full, "report", run="one", form="command")
    assert any(code.value.startswith("workbench report ") for code in at.code)
    at = app(full, "report", run="one", form="text")
    assert (full / "one" / "report.md").read_text().strip()[:60] in at.code[-1].value


def test_a_run_of_another_verb_has_no_verdict(app, full):
    run = full / "one"
    change(run, "manifest.json", lambda m: m["question"].update(verb="look", method={"method": "probes.x:Lens"}))
    (run / "report.json").unlink()
    resign(run)
    at = app(full, run="one")
    assert not at.exception and not at.error
    assert "A run of look gives no verdict" in said(at)


@pytest.mark.parametrize("page", ["overview", "trace", "report"])
def test_a_newer_schema_is_told_and_not_guessed_at(app, full, page):
    change(full / "one", "manifest.json", lambda m: m.update(schema_version=99))
    at = app(full, page, run="one")
    assert not at.exception
    assert "written by a newer version (schema 99" in said(at)
    assert alts(at) == []


def test_a_manifest_that_is_no_json_is_a_damaged_run(app, full):
    (full / "one" / "manifest.json").write_text("{")
    at = app(full, run="one")
    assert not at.exception
    assert "Damaged run, verdict withheld." in at.error[0].value


def test_an_interrupted_run_says_how_to_go_on(app, full):
    change(full / "one", "manifest.json", lambda m: m.update(status="interrupted", files={}))
    at = app(full, run="one")
    assert "was not finished" in at.warning[0].value
    assert any("workbench audit" in code.value for code in at.code)


HOSTILE = (
    "<img src=x onerror=alert(1)> ![i](http://evil.example/a.png) [l](javascript:alert(1)) $x$ :material/home: `c`"
)


@pytest.mark.parametrize("page", PAGES)
def test_text_of_models_is_never_markup(app, full, page):
    run = full / "one"
    change(run, "report.json", lambda r: r["roles"]["checkpoint"].update(name=HOSTILE))
    change(run, "report.json", lambda r: r.update(contradictions=[HOSTILE], concept=HOSTILE))
    for path in (run / "traces").glob("*/*.json"):
        words = json.loads(path.read_text())
        if "fact" in words["labels"]:
            words["labels"]["fact"][0] = f"0: {HOSTILE}"
            path.write_text(json.dumps(words))
    resign(run)
    at = app(full, page, run="one", item="0")
    assert not at.exception and not at.error
    for kind in ("markdown", "caption", "error", "warning", "info", "header", "subheader"):
        for element in at.get(kind):
            for mark in (r"!\[i\]\(", r"\]\(javascript:", r"(?<!\\)<img", r"(?<!\\)`c", r"(?<!\\):material"):
                assert not re.search(mark, str(element.value)), (kind, element.value)
    for figure in figures(at):
        assert "<img" not in json.dumps(figure)


def test_runs_outside_the_folder_are_not_read(app, full, tmp_path):
    shutil.copytree(full / "one", tmp_path / "outside")
    (full / "linked").symlink_to(tmp_path / "outside")
    at = app(full, "runs")
    assert set(at.dataframe[0].value["folder"]) == {"one", "more/two"}
    at = app(full, run="../outside")
    assert "Run A '../outside'" in said(at) and alts(at) == []


def test_a_trace_that_is_a_link_out_of_the_run_is_not_read(app, full, tmp_path):
    secret = tmp_path / "secret.json"
    here = full / "one" / "traces" / "checkpoint" / "causal_trace.forget.json"
    secret.write_text(here.read_text().replace('"probability"', '"secret"'))
    here.unlink()
    here.symlink_to(secret)
    at = app(full, "trace", run="one")
    assert "leads out of the folder" in said(at)
    assert not any("secret" in alt for alt in alts(at))
