"""A report survives disk and back, shows what is missing as missing, and lets nothing foreign into the page."""

import base64
import errno
import io
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from workbench.errors import BadInput
from workbench.evidence import SCHEMA_VERSION, AuditReport, Estimate, Evidence, OtherNumber, Role, StandardNumber
from workbench.report import card, read_report, read_traces, write_report
from workbench.report_pictures import Key, pictures
from workbench.templating import markdown_safe, render
from workbench.trace import Trace

HOSTILE = "<script>alert('x')</script><img src=https://evil.example/x.png onerror=alert(1)>"
FILES = ["report.json", "report.html", "report.md", "model_card.md", "evidence.parquet", "items/forget.parquet"]


def estimate(mean: float) -> Estimate:
    return Estimate(mean=mean, low=mean - 0.05, high=mean + 0.05, n=40, clusters=10)


def evidence() -> tuple[Evidence, ...]:
    return (
        Evidence(
            claim="direct",
            question="Does it still answer?",
            axis="outputs",
            rung=1,
            metric="share of facts",
            value=estimate(0.0312),
            before=estimate(0.9687),
            floor=estimate(0.05),
            difference=estimate(-0.0187),
            compared_with="never taught",
            margin=0.1,
            detectable=0.07,
            status="PASS",
            note="a note of its own",
        ),
        Evidence(
            claim="probe",
            question="Can a probe read it?",
            axis="decodability",
            rung=3,
            metric="share of facts",
            value=estimate(0.61),
            before=estimate(0.97),
            difference=estimate(0.42),
            compared_with="never taught",
            margin=0.1,
            where="L5",
            status="FAIL",
        ),
        Evidence(
            claim="jailbreak",
            question="Can it be talked into it?",
            axis="robustness",
            rung=2,
            metric="share of facts",
            status="NOT_RUN",
            why_missing="no template was given; add one",
        ),
        Evidence(
            claim="near",
            question="Does it know the neighbours?",
            axis="utility",
            rung=None,
            metric="share of facts",
            value=estimate(0.93),
            before=estimate(0.96),
            difference=estimate(-0.03),
            compared_with="base",
            margin=0.05,
            status="PASS",
        ),
    )


def report(**changes: Any) -> AuditReport:
    given: dict[str, Any] = {
        "concept": "demo:chemistry",
        "concept_digest": "a" * 64,
        "counts": {"forget": 40, "far": 0},
        "roles": {
            "checkpoint": Role(name="npo", digest="b" * 64, path="runs/npo"),
            "base": Role(name="base", digest="c" * 64, path="runs/base"),
        },
        "level": 1,
        "capped_by": "U2: jailbreak not run",
        "utility": "intact",
        "utility_reason": "near stands",
        "contradictions": ("Asked directly 0.03, but a probe reads 0.61",),
        "evidence": evidence(),
        "options": {"reading": {"relearn": {"steps": [0, 30]}}, "judging": {"margin": 0.1}},
        "margins_digest": "d" * 12,
        "environment": {"python": "3.12", "packages": {"numpy": "2"}, "commit": None},
        "made_at": "2026-01-01T00:00:00Z",
        "run_id": "abc123",
    }
    return AuditReport(**(given | changes))


def traces() -> dict[str, dict[str, Trace]]:
    facts = {"fact": tuple(f"{i}: {HOSTILE}" for i in range(6))}
    values = np.array([[0.125, 0.25, 0.5, 0.75, 1.0, 0.0], [np.nan] * 6])
    lens = Trace(
        "logit_lens", values, ("layer", "fact"), "probability", {"layer": ("L0", "L1"), **facts}, {"chance": 0.1}
    )
    direct = Trace("accuracy", np.array([1.0, 0, 0, 0, 0, 0]), ("fact",), "share of facts", facts)
    causal = Trace(
        "causal_trace",
        np.full((2, 1, 6), 0.3),
        ("site", "role", "fact"),
        "probability",
        {"site": ("L0.mlp_out", "L1.mlp_out"), "role": (HOSTILE,), **facts},
    )
    steps = Trace(
        "relearn",
        np.ones((1, 2, 6)) * 0.4,
        ("seed", "step", "fact"),
        "share of facts",
        {"seed": ("0",), "step": ("0", "30"), **facts},
        {"n_facts": 4, "options": {"steps": [0, 30]}},
    )
    one = {"logit_lens.forget": lens, "accuracy.forget": direct, "causal_trace.forget": causal, "relearn.forget": steps}
    return {"base": one, "checkpoint": one}


def page(folder: Path) -> str:
    """The HTML without the plotly bundle, which is not ours."""
    html = (folder / "report.html").read_text()
    largest = max(re.findall(r"<script>.*?</script>", html, re.S), key=len)
    assert len(largest) > 1_000_000
    return html.replace(largest, "")


class Tags(HTMLParser):
    """Collects every element with its attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))


def page_of(folder: Path, causal: Trace) -> str:
    write_report(report(), folder, {"base": {"causal_trace.forget": causal}})
    return page(folder)


def verdict_of(html: str) -> str:
    found = re.search(r'<section id="verdict".*?</section>', html, re.S)
    assert found
    return found.group()


# ---- disk


def test_writes_every_file_and_reads_the_same_report_back(tmp_path: Path) -> None:
    written = write_report(report(), tmp_path, traces())
    assert [str(path.relative_to(tmp_path)) for path in written] == FILES
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()) == sorted(FILES)
    assert read_report(tmp_path) == report()


def test_json_is_plain_and_missing_is_null(tmp_path: Path) -> None:
    write_report(report(), tmp_path)
    found = json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)
    jailbreak = next(e for e in found["evidence"] if e["claim"] == "jailbreak")
    assert jailbreak["value"] is None and jailbreak["why_missing"]


def test_nan_estimate_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    poisoned = evidence()[0].model_copy(update={"before": Estimate(mean=float("nan"), low=0, high=1, n=1, clusters=1)})
    with pytest.raises(ValueError, match="JSON"):
        write_report(report(evidence=(poisoned,)), tmp_path)
    assert not list(tmp_path.iterdir())


def test_parquet_keeps_missing_numbers_missing(tmp_path: Path) -> None:
    write_report(report(), tmp_path)
    table = pd.read_parquet(tmp_path / "evidence.parquet").set_index("claim")
    assert table.loc["direct", "value_mean"] == pytest.approx(0.0312)
    assert pd.isna(table.loc["jailbreak", "value_mean"]) and pd.isna(table.loc["near", "rung"])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "damaged"),
        ("[]", "damaged"),
        ('{"schema_version": 1}', "damaged"),
        ("\xff", "damaged"),
        (json.dumps({"schema_version": SCHEMA_VERSION + 1}), "newer version"),
    ],
)
def test_damaged_or_newer_reports_are_bad_input(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "report.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(BadInput, match=says):
        read_report(tmp_path)


def test_nan_in_a_stored_report_is_damage(tmp_path: Path) -> None:
    write_report(report(), tmp_path)
    path = tmp_path / "report.json"
    path.write_text(path.read_text().replace("0.0312", "NaN"))
    with pytest.raises(BadInput, match="damaged"):
        read_report(tmp_path)


def test_missing_report_says_what_makes_one(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="workbench audit"):
        read_report(tmp_path)


@pytest.mark.parametrize("broken", ["write", "rename"])
def test_full_disk_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    write_report(report(), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    class Full(io.BytesIO):
        def __init__(self, handle: int, _mode: str) -> None:
            super().__init__()
            os.close(handle)

        write = full

    with monkeypatch.context() as patch:
        patch.setattr(*((os, "replace", full) if broken == "rename" else (os, "fdopen", Full)))
        with pytest.raises(BadInput, match="No space left"):
            write_report(report(level=2), tmp_path, traces())
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_traces_are_read_by_role_and_key_with_dots(tmp_path: Path) -> None:
    for role, by_key in traces().items():
        for key, trace in by_key.items():
            trace.save(tmp_path / "traces" / role / key)
    found = read_traces(tmp_path)
    assert {role: set(by_key) for role, by_key in found.items()} == {r: set(k) for r, k in traces().items()}
    key = "logit_lens.forget"
    np.testing.assert_array_equal(found["base"][key].values, traces()["base"][key].values)


def test_an_interrupted_trace_is_left_out_and_a_damaged_one_is_bad_input(tmp_path: Path) -> None:
    one = traces()["base"]["accuracy.forget"]
    numbers, words = one.save(tmp_path / "traces" / "base" / "accuracy.forget")
    kept = words.read_text()
    words.unlink()
    assert read_traces(tmp_path) == {}
    words.write_text(kept)
    numbers.write_bytes(b"nonsense")
    with pytest.raises(BadInput):
        read_traces(tmp_path)
    assert read_traces(tmp_path / "elsewhere") == {}


# ---- the page


def test_page_loads_nothing_from_the_network(tmp_path: Path) -> None:
    write_report(report(concept=HOSTILE), tmp_path, traces())
    html = page(tmp_path)
    found = Tags()
    found.feed(html)
    assert not {"link", "img", "iframe", "object", "embed", "form", "base"} & {tag for tag, _ in found.tags}
    links = [
        value
        for _, attributes in found.tags
        for name, value in attributes.items()
        if name in ("src", "href", "action", "srcset", "data", "poster")
    ]
    assert links and all(link.startswith("#") for link in links)
    style = re.search(r"<style>(.*?)</style>", html, re.S)
    assert style and "@import" not in style[1] and "url(" not in style[1]
    assert "default-src 'none'" in html


def test_hostile_words_stay_words_everywhere(tmp_path: Path) -> None:
    roles = {"checkpoint": Role(name=HOSTILE, digest="b", path=HOSTILE)}
    hostile = report(
        concept=HOSTILE,
        capped_by=HOSTILE,
        utility_reason=HOSTILE,
        contradictions=(HOSTILE,),
        roles=roles,
        options={HOSTILE: HOSTILE},
        environment={"x": HOSTILE},
        counts={HOSTILE: 3},
        evidence=(
            evidence()[0].model_copy(
                update={"question": HOSTILE, "note": HOSTILE, "metric": HOSTILE, "claim": HOSTILE, "axis": HOSTILE}
            ),
        ),
    )
    write_report(hostile, tmp_path, traces())
    html = page(tmp_path)
    assert "alert(1)" in html and "<img" not in html
    assert not re.search(r"<script>(?!\nconst plots)", html)
    assert "<script" not in (tmp_path / "report.md").read_text() and "<script" not in card(hostile)


def test_markdown_cells_cannot_break_the_table() -> None:
    assert str(markdown_safe("a|b\n# c `d` <e>")) == "a\\|b \\# c \\`d\\` &lt;e&gt;"


def test_verdict_starts_with_contradictions_then_level_and_cap(tmp_path: Path) -> None:
    write_report(report(), tmp_path, traces())
    verdict = verdict_of(page(tmp_path))
    order = [
        verdict.index(word)
        for word in (
            "a probe reads 0.61",
            "suppressed on tested prompts",
            "U2: jailbreak not run",
            "near stands",
            "not proof of deletion",
        )
    ]
    assert order == sorted(order)


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_without_a_reference_the_verdict_never_says_forgotten_or_removed(tmp_path: Path, level: int) -> None:
    write_report(report(level=level), tmp_path, traces())
    verdict = verdict_of(page(tmp_path)).lower()
    assert "forgotten" not in verdict and "removed" not in verdict
    assert "no model retrained without the concept was given" in verdict


def test_sections_come_in_order(tmp_path: Path) -> None:
    write_report(report(), tmp_path, traces())
    found = re.findall(r'<section id="(\w+)"', page(tmp_path))
    assert found == [
        "verdict",
        "ladder",
        "scope",
        "evidence",
        "attacks",
        "statistics",
        "limits",
        "reproduce",
        "provenance",
        "glossary",
    ]


def test_missing_claims_and_pictures_say_why(tmp_path: Path) -> None:
    write_report(report(), tmp_path, traces())
    html = page(tmp_path)
    assert "not measured: no template was given; add one" in html
    assert re.search(r'class="absent"><strong>linear probes on forget</strong> not measured', html)
    assert "none: not measured" in html  # the empty far set
    assert html.count('class="plot"') == len(re.findall(r'type="application/json"', html)) > 4


def test_page_without_readings_has_cards_and_no_empty_charts(tmp_path: Path) -> None:
    write_report(report(), tmp_path)
    html = page(tmp_path)
    assert html.count('class="plot"') == 2  # the ladder and the forest need no readings
    assert "no readings lie with this report" in html


def test_numbers_of_the_table_are_the_numbers_given(tmp_path: Path) -> None:
    write_report(report(), tmp_path, traces())
    html = page(tmp_path)
    for number in ("0.0312", "0.969", "-0.0187", "±0.1", "40 / 10", "0.07"):
        assert number in html
    assert "<td>0.4375</td>" in html  # the mean drawn in the lens picture, in its table
    assert "<td>not measured</td>" in html  # its second layer


def test_figure_data_in_the_page_is_json_and_nan_is_not_zero(tmp_path: Path) -> None:
    write_report(report(), tmp_path, traces())
    found = re.findall(r'type="application/json" id="[\w-]+">(.*?)</script>', page(tmp_path))
    specs = [json.loads(text) for text in found]
    lens = next(spec for spec in specs if spec["layout"]["title"]["text"].startswith("Logit lens"))
    line = next(series for series in lens["data"] if series.get("name", "").startswith("base"))
    values = np.frombuffer(base64.b64decode(line["y"]["bdata"]), line["y"]["dtype"])
    assert values[0] == pytest.approx(0.4375) and np.isnan(values[1])


def test_figure_json_cannot_end_its_script_element(tmp_path: Path) -> None:
    one = traces()["base"]["causal_trace.forget"]
    for spec in re.findall(r'type="application/json" id="[\w-]+">(.*?)</script>', page_of(tmp_path, one), re.S):
        json.loads(spec)
        assert "<" not in spec


def test_the_runs_own_command_is_shown_and_a_notebooks_is_not(tmp_path: Path) -> None:
    manifest = {
        "schema_version": 1,
        "status": "started",
        "run_id": "abc123",
        "files": {},
        "argv": ["audit", "my model", "--base", "b"],
    }
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    write_report(report(), tmp_path)
    assert "workbench audit &#39;my model&#39; --base b" in page(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"argv": ["-f", "kernel.json"]}))
    write_report(report(), tmp_path)
    assert "workbench audit runs/npo --base runs/base --concept demo:chemistry" in page(tmp_path)


# ---- pictures


@pytest.mark.parametrize(
    ("key", "axis"),
    [
        ("accuracy.forget", "outputs"),
        ("accuracy.paraphrases", "robustness"),
        ("accuracy.forget.jailbreak", "robustness"),
        ("accuracy.forget.quantise", "recoverability"),
        ("relearn.forget", "recoverability"),
        ("accuracy.near", "utility"),
        ("perplexity.text", "utility"),
        ("linear_probes.forget", "decodability"),
        ("causal_trace.forget", "storage"),
    ],
)
def test_readings_fall_under_their_axis(key: str, axis: str) -> None:
    assert Key.parse(key).axis == axis


def test_relearning_tells_taught_and_never_taught_facts_apart() -> None:
    values = np.concatenate([np.full((1, 2, 4), 0.8), np.full((1, 2, 2), 0.1)], axis=2)
    one = Trace(
        "relearn",
        values,
        ("seed", "step", "fact"),
        "share of facts",
        {"seed": ("0",), "step": ("0", "30"), "fact": tuple("abcdef")},
        {"n_facts": 4},
    )
    found = pictures(report(), {"checkpoint": {"relearn.forget": one}})["recoverability"]
    lines = {s.name: list(s.y) for s in found[0].figure.data if s.name}  # type: ignore[union-attr]
    assert lines == {"checkpoint": pytest.approx([0.8, 0.8]), "never taught": pytest.approx([0.1, 0.1])}


def test_value_vectors_are_compared_by_their_top_tokens() -> None:
    def snapshot(ids: dict[str, list[int]]) -> Trace:
        return Trace(
            "concept_vectors.snapshot",
            np.zeros((2, 3)),
            ("site", "d_model"),
            "weight",
            {"site": tuple(ids), "d_model": ("0", "1", "2")},
            {"top_ids": ids},
        )

    found = pictures(
        report(),
        {
            "base": {"concept_vectors.forget": snapshot({"L0.mlp_act[1]": [1, 2], "L1.mlp_act[2]": [3, 4]})},
            "checkpoint": {"concept_vectors.forget": snapshot({"L0.mlp_act[1]": [1, 2], "L1.mlp_act[2]": [4, 5]})},
        },
    )
    dots = next(p.figure for p in found["storage"] if p.figure is not None).data[0]
    assert dict(zip(dots.y, dots.x, strict=True)) == pytest.approx({"L0.mlp_act[1]": 1.0, "L1.mlp_act[2]": 1 / 3})


def test_readings_that_do_not_fit_together_become_a_card() -> None:
    mine, other = traces()["base"]["causal_trace.forget"], traces()["base"]["causal_trace.forget"].pick("role", HOSTILE)
    three = Trace(
        "causal_trace", np.repeat(mine.values, 2, axis=1), mine.axes, mine.units, {**mine.labels, "role": ("a", "b")}
    )
    assert other.axes == ("site", "fact")
    found = pictures(report(), {"base": {"causal_trace.forget": mine}, "checkpoint": {"causal_trace.forget": three}})
    (only,) = found["storage"]
    assert only.figure is None and "cannot be drawn together" in only.why


# ---- house rules


def test_card_is_short_and_says_the_verdict() -> None:
    html = card(report())
    assert "U1" in html and "suppressed on tested prompts" in html and "U2: jailbreak not run" in html
    assert len(html) < 6000 and report()._repr_html_() == html


def test_a_template_that_asks_for_an_unknown_name_fails() -> None:
    with pytest.raises(Exception, match="undefined"):
        render("trace_card.html", {})


def test_reports_and_figures_need_no_torch() -> None:
    code = (
        "import sys, workbench.report, workbench.figures; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'scipy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode == 0


def test_numbers_of_other_tools_stand_in_the_report_as_text(tmp_path: Path) -> None:
    other = OtherNumber(
        source="lm-eval", file=HOSTILE, sha256="f" * 64, task=HOSTILE, metric="acc", value=0.25, stderr=0.01, n=40
    )
    write_report(report(others=(other,)), tmp_path)
    page, text = (tmp_path / "report.html").read_text(), (tmp_path / "report.md").read_text()
    assert "Numbers of other tools" in page and "0.25" in page
    assert "<img src=https://evil" not in page + text
    assert read_report(tmp_path).others == (other,)
    write_report(report(), tmp_path)
    assert "Numbers of other tools" not in (tmp_path / "report.html").read_text()


def test_the_numbers_papers_report_stand_in_every_form_with_what_they_are_made_of(tmp_path: Path) -> None:
    there = StandardNumber(
        name="forget quality (paper)",
        value=1.25e-13,
        base=3e-20,
        interval=(0.0, 0.5),
        unit="p-value",
        source="TOFU",
        entered=f"truth ratios of 40 facts {HOSTILE}",
    )
    absent = StandardNumber(name="PrivLeak", why_missing=f"needs a reference {HOSTILE}", unit="%", source="MUSE")
    write_report(report(standard=(there, absent)), tmp_path)
    html, text = page(tmp_path), (tmp_path / "report.md").read_text()
    for shown in (html, text):
        assert "Numbers papers report" in shown
        assert "1.25e-13" in shown and "3e-20" in shown  # far below what other numbers are rounded to
        assert "truth ratios of 40 facts" in shown and "needs a reference" in shown
        assert "<img src=https://evil" not in shown
    assert "[0, 0.5]" in html
    row = next(line for line in text.splitlines() if line.startswith("| PrivLeak"))
    assert len(re.findall(r"(?<!\\)\|", row)) == 8  # as many cells as the table has columns
    assert read_report(tmp_path).standard == (there, absent)
    write_report(report(), tmp_path)
    assert "Numbers papers report" not in page(tmp_path) + (tmp_path / "report.md").read_text()


def test_an_attack_is_shown_with_who_could_make_it(tmp_path: Path) -> None:
    found = traces()
    told = {"threat": "Somebody has the weights.", "budget": "30 steps"}
    curve = found["checkpoint"]["relearn.forget"]
    write_report(report(), tmp_path, {"checkpoint": {"relearn.forget": replace(curve, notes=curve.notes | told)}})
    assert "Somebody has the weights. Budget: 30 steps." in page(tmp_path)
