"""Pictures draw the numbers they were given, grey what is noise, and never turn a missing number into zero."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from workbench.errors import BadInput
from workbench.evidence import AuditReport, Estimate, Evidence, Role
from workbench.figures import (
    alt_text,
    compare_layers,
    compare_maps,
    compare_means,
    compare_ranked,
    edit_card,
    figure_of,
    forest,
    kind_of,
    ladder,
    relearn_curves,
    table_of,
    trace_card,
)
from workbench.figures_bands import band_of
from workbench.figures_style import NOISE, ROLE_LOOKS, number, plain
from workbench.trace import Trace

HOSTILE = "<script>alert('x')</script><a href='https://evil.example'>click</a>"


def trace(
    values: Any, axes: tuple[str, ...], labels: dict[str, tuple[str, ...]], name: str = "reading", **notes: Any
) -> Trace:
    return Trace(name, np.asarray(values, float), axes, "probability", labels, notes)


def by_layer(values: Any, **notes: Any) -> Trace:
    values = np.asarray(values, float)
    return trace(
        values,
        ("layer", "fact"),
        {"layer": tuple(f"L{i}" for i in range(len(values))), "fact": tuple(f"f{i}" for i in range(values.shape[1]))},
        **notes,
    )


def causal(values: Any) -> Trace:
    """Two layers, two roles, one part."""
    values = np.asarray(values, float)
    return trace(
        values,
        ("site", "role", "fact"),
        {
            "site": ("L0.resid_post", "L1.resid_post"),
            "role": ("last subject", "last prompt"),
            "fact": tuple(f"f{i}" for i in range(values.shape[2])),
        },
    )


def claim(name: str, rung: int | None, status: str, difference: float | None = 0.0, axis: str = "outputs") -> Evidence:
    if status in ("NOT_RUN", "ERROR"):
        return Evidence(
            claim=name,
            question=f"Question {name}?",
            axis=axis,
            rung=rung,
            metric="share",
            status=status,
            why_missing="needs a reference",
        )  # type: ignore[arg-type]
    value = Estimate(mean=0.3, low=0.2, high=0.4, n=20, clusters=5)
    gap = (
        None
        if difference is None
        else Estimate(mean=difference, low=difference - 0.03, high=difference + 0.04, n=20, clusters=5)
    )
    return Evidence(
        claim=name,
        question=f"Question {name}?",
        axis=axis,
        rung=rung,
        metric="share",
        value=value,
        difference=gap,
        compared_with="reference",
        margin=0.1,
        status=status,
    )  # type: ignore[arg-type]


def report(evidence: tuple[Evidence, ...], level: int = 1, capped_by: str = "U2: format fails") -> AuditReport:
    return AuditReport(
        concept="demo:x",
        concept_digest="0" * 64,
        counts={"forget": 20},
        roles={"checkpoint": Role(name="c", digest="1" * 64)},
        level=level,
        capped_by=capped_by,
        utility="intact",
        utility_reason="near",
        evidence=evidence,
        options={},
        margins_digest="2",
        environment={},
        made_at="2026-01-01T00:00:00Z",
        run_id="abc",
    )


def drawn(figure: go.Figure, name: str) -> Any:
    return next(series for series in figure.data if series.name and series.name.startswith(name))


def layout(figure: go.Figure) -> Any:
    return figure.layout


def cells_of(table: Any, across: str = "role", panel: str = "") -> dict[tuple[str, str], Any]:
    """(layer, column) -> row of the table, of the panels whose name holds `panel`."""
    rows = [row for _, row in table.iterrows() if panel in row.get("panel", "")]
    return {(row["layer"], row[across]): row for row in rows}


# ---- numbers


def test_layer_curve_draws_the_mean_over_facts() -> None:
    figure = compare_layers({"base": by_layer([[0.2, 0.4], [0.8, 1.0]])}, "Lens", "probability", chance=0.1)
    assert list(drawn(figure, "base").y) == pytest.approx([0.3, 0.9])
    table = table_of(figure)
    assert list(table["layer"]) == ["L0", "L1"]
    assert list(table["probability"]) == pytest.approx([0.3, 0.9])
    assert "0.9" in alt_text(figure) and "L1" in alt_text(figure) and "chance is 0.1" in alt_text(figure)


def test_roles_differ_in_colour_dash_and_marker() -> None:
    one = by_layer([[0.2, 0.4]])
    figure = compare_layers({role: one for role in ROLE_LOOKS}, "Lens", "probability", None)
    lines = [drawn(figure, role) for role in ROLE_LOOKS]
    for look in (
        [line.line.color for line in lines],
        [line.line.dash for line in lines],
        [line.marker.symbol for line in lines],
    ):
        assert len(set(look)) == len(ROLE_LOOKS)


def test_missing_layer_is_a_gap_in_line_band_and_table_never_zero() -> None:
    values = np.array([[0.2, 0.4], [np.nan, np.nan], [0.6, 0.7]])
    figure = compare_layers({"base": by_layer(values)}, "Lens", "probability", None)
    line = drawn(figure, "base")
    assert np.isnan(line.y[1]) and not line.connectgaps
    assert np.isnan(table_of(figure)["probability"][1])
    band = next(series for series in figure.data if series.fill == "toself")
    assert "L1" not in band.x and None in band.x


def test_one_missing_fact_does_not_enter_the_mean() -> None:
    band = band_of(by_layer([[0.2, np.nan, 0.4]]), "layer")
    assert band.mean[0] == pytest.approx(0.3)
    assert band.items == 2 and band.of_what == " (2 facts)"


def test_band_covers_the_spread_of_facts_and_is_absent_for_one_fact() -> None:
    spread = np.random.default_rng(0).normal(0.5, 0.2, (1, 200))
    band = band_of(by_layer(spread), "layer")
    expected = 1.96 * spread.std(ddof=1) / np.sqrt(200)
    assert band.high[0] - band.mean[0] == pytest.approx(expected, rel=0.15)
    alone = band_of(by_layer([[0.5]]), "layer")
    assert np.isnan(alone.low[0]) and np.isnan(alone.high[0])


def test_band_resamples_subjects_where_the_reading_names_them() -> None:
    values = np.repeat(np.random.default_rng(0).normal(0.5, 0.2, 20), 10)[None]
    free = band_of(by_layer(values), "layer")
    clustered = band_of(by_layer(values, subjects=[str(i // 10) for i in range(200)]), "layer")
    assert clustered.high[0] - clustered.low[0] > 2 * (free.high[0] - free.low[0])


def test_band_refuses_an_axis_it_cannot_average() -> None:
    with pytest.raises(BadInput, match="role"):
        band_of(causal(np.zeros((2, 2, 3))), "site")


def test_relearn_curves_are_to_scale_and_keep_the_numbers() -> None:
    values = np.array([[[0.0, 0.2], [0.5, 0.7]], [[0.2, 0.4], [0.7, 0.9]]])
    one = trace(values, ("seed", "step", "fact"), {"seed": ("0", "1"), "step": ("0", "30"), "fact": ("a", "b")})
    line = drawn(relearn_curves({"checkpoint": one}), "checkpoint")
    assert list(line.x) == [0.0, 30.0] and list(line.y) == pytest.approx([0.2, 0.7])
    assert kind_of(one) == "relearning"


def test_means_are_drawn_per_role_with_texts_too() -> None:
    facts = trace([1, 0, 1, 0], ("fact",), {"fact": ("a", "b", "c", "d")})
    texts = Trace("perplexity", np.array([1.0, 3.0]), ("text",), "nats", {"text": ("s", "t")})
    table = table_of(compare_means({"acc": {"base": facts}, "ppl": {"base": texts}}, "Outputs", "share"))
    assert dict(zip(table["reading"], table["share"], strict=True)) == pytest.approx({"acc": 0.5, "ppl": 2.0})


# ---- maps


def test_map_puts_layers_and_roles_where_they_belong() -> None:
    cells = cells_of(table_of(figure_of(causal([[[0.1], [0.2]], [[0.3], [np.nan]]]))))
    assert cells["0", "last subject"]["value"] == pytest.approx(0.1)
    assert cells["1", "last subject"]["value"] == pytest.approx(0.3)
    assert np.isnan(cells["1", "last prompt"]["value"])


def test_expert_map_is_layer_by_expert_and_sequential_when_nothing_is_negative() -> None:
    one = trace(
        [[0.1], [0.9], [0.2]],
        ("site", "fact"),
        {"site": ("L2.expert[0]", "L2.expert[3]", "L4.expert[0]"), "fact": ("f",)},
    )
    figure = figure_of(one)
    cells = cells_of(table_of(figure), "expert")
    assert cells["2", "3"]["value"] == pytest.approx(0.9) and np.isnan(cells["4", "3"]["value"])
    assert layout(figure).coloraxis.cmin == 0
    assert "layer 2" in alt_text(figure) and "expert 3" in alt_text(figure)


def test_difference_inside_the_noise_floor_is_grey_and_outside_is_not() -> None:
    noise = np.random.default_rng(1).normal(0, 0.1, (2, 2, 30))
    before, after = causal(np.zeros((2, 2, 30))), noise - noise.mean(axis=2, keepdims=True)
    after[0, 0] += 0.01  # standard error .018: far below two of them
    after[1, 1] -= 0.5
    figure = compare_maps(before, causal(after))
    cells = cells_of(table_of(figure), panel="−")
    far, near = cells["1", "last prompt"], cells["0", "last subject"]
    assert far["value"] == pytest.approx(-0.5) and not far["inside noise"]
    assert near["value"] == pytest.approx(0.01) and near["inside noise"]
    maps = [series for series in figure.data if series.type == "heatmap"]
    grey = next(series for series in maps if series.coloraxis is None)
    assert {color for _, color in grey.colorscale} == {NOISE}
    assert grey.z[0][0] == 1 and np.isnan(grey.z[1][1])
    coloured = next(series for series in maps if series.meta and "−" in series.meta["panel"])
    assert np.isnan(coloured.z[0][0]) and coloured.z[1][1] == pytest.approx(-0.5)
    assert "3 of 4 cells lie inside the noise floor" in alt_text(figure)


def test_comparison_has_one_symmetric_scale_centred_on_zero() -> None:
    figure = compare_maps(causal(np.full((2, 2, 5), 0.2)), causal(np.full((2, 2, 5), 0.9)), causal(np.zeros((2, 2, 5))))
    axis = layout(figure).coloraxis
    assert (axis.cmin, axis.cmax, axis.cmid) == pytest.approx((-0.9, 0.9, 0))
    assert axis.colorscale[0][1] == "rgb(103,0,31)"  # RdBu: red is down
    coloured = [series for series in figure.data if series.type == "heatmap" and series.meta]
    assert {series.coloraxis for series in coloured} == {"coloraxis"} and len(coloured) == 4


def test_unread_cells_bear_a_cross_and_stay_missing() -> None:
    values = np.full((2, 2, 5), 0.2)
    values[0, 1] = np.nan
    figure = compare_maps(causal(values), causal(values))
    crosses = [series for series in figure.data if series.type == "scatter"]
    assert len(crosses) == 3 and all(list(s.x) == ["last prompt"] and list(s.y) == ["0"] for s in crosses)
    table = table_of(figure)
    assert sum(np.isnan(value) for value in table["value"]) == 3
    assert "not measured" in alt_text(figure)


def test_one_fact_cannot_be_told_from_noise() -> None:
    table = table_of(compare_maps(causal(np.zeros((2, 2, 1))), causal(np.ones((2, 2, 1)))))
    cells = cells_of(table, panel="−")
    assert len(cells) == 4 and all(row["inside noise"] for row in cells.values())


def test_maps_read_at_other_sites_are_refused() -> None:
    other = trace(
        np.zeros((1, 2, 1)), ("site", "role", "fact"), {"site": ("L0.mlp_out",), "role": ("a", "b"), "fact": ("f",)}
    )
    with pytest.raises(BadInput, match="same options"):
        compare_maps(causal(np.zeros((2, 2, 1))), other)


# ---- bars


def test_ranked_bars_show_the_top_twenty_and_say_of_how_many() -> None:
    scores = np.arange(30.0)
    scores[29] = np.nan
    one = trace(scores, ("site",), {"site": tuple(f"L0.mlp_act[{i}]" for i in range(30))}, name="concept_vectors")
    figure = figure_of(one)
    table = table_of(figure)
    assert list(table["site"][:2]) == ["L0.mlp_act[28]", "L0.mlp_act[27]"] and len(table) == 20
    assert "top 20 of 30" in alt_text(figure) and "1 not measured" in alt_text(figure)


def test_ranked_comparison_leaves_a_gap_where_another_role_was_not_read() -> None:
    one = trace([3.0, 1.0], ("site",), {"site": ("L0.mlp_act[0]", "L0.mlp_act[1]")})
    other = trace([2.0], ("site",), {"site": ("L0.mlp_act[0]",)})
    table = table_of(compare_ranked({"base": one, "checkpoint": other}))
    rows: list[dict[str, Any]] = [dict(row) for _, row in table.iterrows()]
    after = {row["site"]: row["probability"] for row in rows if row["series"] == "checkpoint"}
    assert after["L0.mlp_act[0]"] == 2.0 and np.isnan(after["L0.mlp_act[1]"])


def test_measures_keep_their_own_panels() -> None:
    one = trace(
        [[1.0, 30.0], [0.5, 10.0]],
        ("site", "measure"),
        {"site": ("L0.mlp_act[0]", "L0.mlp_act[1]"), "measure": ("jaccard", "l2")},
    )
    table = table_of(figure_of(one))
    assert list(table[table["series"] == "l2"]["value"]) == [30.0, 10.0]


# ---- the whole audit


def test_ladder_says_each_rungs_state_in_words_and_symbol() -> None:
    figure = ladder(
        report(
            (
                claim("a", 1, "PASS"),
                claim("b", 2, "FAIL"),
                claim("c", 3, "NOT_RUN"),
                claim("d", 4, "PASS"),
                claim("e", 5, "INCONCLUSIVE"),
            )
        )
    )
    states = dict(zip(table_of(figure)["level"], table_of(figure)["state"], strict=True))
    assert states == {
        "U0": "left behind",
        "U1": "reached",
        "U2": "failed",
        "U3": "not run",
        "U4": "capped",
        "U5": "undecided",
    }
    texts = [note.text for note in layout(figure).annotations]
    assert any("✓ U1 reached" in text and "this report" in text for text in texts)
    assert any("✕ U2 failed" in text and "0 of 1 hold" in text for text in texts)
    assert "U2: format fails" in alt_text(figure)


def test_ladder_at_the_bottom_stands_on_u0() -> None:
    table = table_of(ladder(report((claim("a", 1, "FAIL"),), level=0)))
    assert list(table["state"])[:2] == ["reached", "failed"]


def test_forest_draws_difference_interval_and_margin_of_measured_claims_only() -> None:
    figure = forest(
        report(
            (
                claim("a", 1, "PASS", -0.02),
                claim("b", 1, "FAIL", 0.4),
                claim("c", 2, "NOT_RUN"),
                claim("d", 2, "PASS", None, "robustness"),
            )
        )
    )
    table = table_of(figure).set_index("claim")
    assert set(table.index) == {"a", "b"}
    row = table.loc["b"]
    assert (row["difference"], row["low"], row["high"], row["margin"]) == pytest.approx((0.4, 0.37, 0.44, 0.1))
    bands = [shape for shape in layout(figure).shapes if shape.type == "rect"]
    assert {(shape.x0, shape.x1) for shape in bands} == {(-0.1, 0.1)} and len(bands) == 2
    ticks = "".join(layout(figure).yaxis.ticktext)
    assert "✓ pass" in ticks and "✕ fail" in ticks
    assert "1 measured claims have no control" in alt_text(figure)


def test_forest_without_any_difference_says_so() -> None:
    assert "No claim" in alt_text(forest(report((claim("a", 1, "NOT_RUN"),))))


# ---- words


def test_every_figure_has_an_alternative_text() -> None:
    one = by_layer([[0.2, 0.4]])
    for figure in (figure_of(one), figure_of(causal(np.zeros((2, 2, 2)))), ladder(report(())), forest(report(()))):
        assert len(alt_text(figure)) > 20


def test_missing_number_in_words() -> None:
    assert number(None) == number(float("nan")) == "not measured"
    assert number(0.0) == "0" and number(-1e-12) == "-1e-12" and number(12345.6) == "12,346"


def test_labels_cannot_carry_markup_into_a_picture() -> None:
    assert "<" not in plain(HOSTILE)
    one = trace([[1.0]], ("site", "fact"), {"site": ("L0.mlp_act[0]",), "fact": (HOSTILE,)}, name=HOSTILE)
    roles = trace([[[1.0]]], ("site", "role", "fact"), {"site": ("L0.mlp_out",), "role": (HOSTILE,), "fact": ("f",)})
    for figure in (figure_of(one), figure_of(roles), compare_ranked({HOSTILE: one})):
        drawn_words = [layout(figure).title.text, *(label for s in figure.data for label in (*s.x, *s.y, s.name))]
        assert not [word for word in drawn_words if isinstance(word, str) and "<" in word]
    assert HOSTILE[:20] in str(table_of(figure_of(roles))["role"][0])


def test_trace_card_is_escaped_and_shows_the_best_five() -> None:
    one = trace(
        [*range(9), np.nan],
        ("site",),
        {"site": tuple(f"L0.mlp_act[{i}]" for i in range(10))},
        name=HOSTILE,
        model=HOSTILE,
    )
    html = trace_card(one)
    assert "<script" not in html and "&lt;script" in html and "<a href" not in html
    assert "L0.mlp_act[8]" in html and "L0.mlp_act[3]" not in html and "1 not measured" in html


@dataclass(frozen=True)
class FakeEdit:
    """As much of an edit as the card reads."""

    kind: str = "weights"
    fitted_to: str = "0123456789abcdef"
    made_by: dict[str, Any] = field(default_factory=lambda: {"method": HOSTILE})
    notes: dict[str, Any] = field(default_factory=dict)
    changes: dict[str, Any] = field(default_factory=dict)
    operators: dict[str, Any] = field(default_factory=dict)


def test_edit_card_names_what_is_changed() -> None:
    whole = SimpleNamespace(values=np.zeros((3, 4)), index=None)
    html = edit_card(FakeEdit(changes={f"layer.{i}": whole for i in range(12)}))
    assert "<script" not in html and "all 12 entries" in html and "and 2 more" in html and "0123456789ab" in html
    operators = {"L3.mlp_out": SimpleNamespace(name="project_out")}
    assert "project_out" in edit_card(FakeEdit(kind="hooks", operators=operators))
    assert "nothing" in edit_card(FakeEdit())
