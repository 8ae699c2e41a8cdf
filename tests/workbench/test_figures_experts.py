"""Pictures of routing: the load with its evenness and split, and token by expert, by hand."""

import json
from dataclasses import replace

import numpy as np
import pytest

from workbench.errors import BadInput
from workbench.expert_load import entropies, load_by_fact
from workbench.expert_tokens import RoutingGrid
from workbench.figures_bands import band_of
from workbench.figures_click import CellAt, clickable, clicked
from workbench.figures_experts import CHANGE, routing_figure
from workbench.figures_maps import compare_maps
from workbench.figures_style import alt_text, rows_of, table_of
from workbench.map_grids import difference_of, grids_of
from workbench.trace import Trace

SITES = tuple(f"L{layer}.expert[{e}]" for layer in range(2) for e in range(2))


def load(values, facts: int = 3, **notes) -> Trace:
    """Share of the choices of two layers of two experts, two of which a token gets."""
    numbers = np.array(values, float).repeat(facts, axis=1) if len(values[0]) == 1 else np.array(values, float)
    names = tuple(f"{i}: f" for i in range(numbers.shape[1]))
    labels = {"site": SITES, "fact": names}
    return Trace("expert_attribution", numbers, ("site", "fact"), "share", labels, {"experts_per_token": 2, **notes})


def test_shares_of_choices_become_shares_of_tokens():
    assert load_by_fact(load([[0.5], [0.5], [1], [0]])).values[:, 0].tolist() == [1, 1, 2, 0]
    bare = Trace("x", np.zeros((4, 1)), ("site", "fact"), "share", {"site": SITES, "fact": ("0: f",)})
    with pytest.raises(BadInput, match="how many experts"):
        load_by_fact(bare)


def test_the_mean_of_the_evenness_is_the_entropy_and_its_spread_that_of_the_entropy():
    random = np.random.default_rng(0)
    one = random.uniform(0.5, 0.9, 40)
    values = np.stack([one, 1 - one, np.full(40, 0.5), np.full(40, 0.5)])
    found = entropies(load_by_fact(load(values.tolist(), subjects=[str(i // 2) for i in range(40)])))
    assert found.axes == ("layer", "fact") and found.labels["layer"] == ("0", "1")
    p = np.array([one.mean(), 1 - one.mean()])
    assert found.mean("fact").values == pytest.approx([-(p * np.log2(p)).sum(), 1])
    band = band_of(found, "layer")
    pairs = one.reshape(20, 2).mean(axis=1)
    drawn = pairs[random.integers(0, 20, (4000, 20))].mean(axis=1)
    whole = -(drawn * np.log2(drawn) + (1 - drawn) * np.log2(1 - drawn))
    low, high = np.percentile(whole, [2.5, 97.5])
    assert high - low > 0.05  # to first order: the entropy is curved
    assert band.low[0] == pytest.approx(low, abs=0.012) and band.high[0] == pytest.approx(high, abs=0.012)
    assert band.low[1] == band.high[1] == pytest.approx(1)
    pooled = entropies(Trace("x", np.array([1, 0, 0.5, 0.5]), ("site",), "share", {"site": SITES}))
    assert pooled.axes == ("layer",) and pooled.values.tolist() == [0, 1]


def test_the_split_takes_the_other_facts_off_with_their_noise():
    forget = load([[0.4, 0.6, 0.5], [0.6, 0.4, 0.5], [1, 1, 1], [0, 0, 0]])
    near = load([[0.1, 0.3], [0.9, 0.7], [1, 1], [0, 0]])
    after = load([[0.9, 0.9, 0.9], [0.1, 0.1, 0.1], [1, 1, 1], [0, 0, 0]])
    sides = {"before": near, "after": near}
    figure = compare_maps(forget, after, None, "split", less=sides)
    panels = [s for s in figure.data if s.type == "heatmap" and s.meta]
    assert np.asarray(panels[0].customdata)[0, :, 0].tolist() == pytest.approx([0.3, -0.3])
    assert np.asarray(panels[2].customdata)[0, :, 0].tolist() == pytest.approx([0.4, -0.4])
    assert "3 facts less that over 2 facts" in alt_text(figure)
    one, other = (grids_of(t)[0] for t in (forget, near))
    change, error = difference_of(replace(one, less=other), replace(grids_of(after)[0], less=other), True)
    spread = np.std([0.5, 0.3, 0.4], ddof=1) / np.sqrt(3)
    assert error[0, 0] == pytest.approx(spread) and change[0, 0] == pytest.approx(0.4)
    noisy = grids_of(load([[0.1, 0.5], [0.9, 0.5], [1, 1], [0, 0]]))[0]
    _, error = difference_of(replace(one, less=other), replace(grids_of(after)[0], less=noisy), True)
    assert error[0, 0] == pytest.approx(np.hypot(spread, np.std([0, 0.2], ddof=1) / np.sqrt(2)))
    swapped = compare_maps(forget, after, None, "split", less={"before": near, "after": forget})
    changed = np.asarray([s for s in swapped.data if s.type == "heatmap" and s.meta][2].customdata)[0]
    assert changed[:, 0].tolist() == pytest.approx([0.9 - 0.5 - (0.5 - 0.2), -0.1])
    apart = np.sqrt(np.var([0.4, 0.6, 0.5], ddof=1) * 2 / 3 + np.var([0.1, 0.3], ddof=1) / 2)
    assert changed[0, 1] == pytest.approx(apart)  # facts of different sets are not paired
    with pytest.raises(BadInput, match="different sites"):
        short = Trace("x", np.zeros((2, 2)), ("site", "fact"), "share", {"site": SITES[:2], "fact": ("0: a", "1: b")})
        compare_maps(forget, after, None, "split", less={"before": short, "after": short})


def grid(probability, chosen, tokens=("a", "·b", "<b>")) -> RoutingGrid:
    known = np.array(probability, float)
    weight = np.where(np.array(chosen, bool), 0.5, np.nan)
    return RoutingGrid(tokens, tuple(map(str, range(known.shape[1]))), known, weight, 2)


BEFORE = grid([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.2, 0.3, 0.5]], [[1, 0, 0], [0, 1, 0], [0, 0, 1]])
AFTER = grid([[0.6, 0.3, 0.1], [0.5, 0.4, 0.1], [0.2, 0.3, 0.5]], [[1, 0, 0], [1, 0, 0], [0, 0, 1]])


def test_token_by_expert_draws_both_the_difference_and_who_is_chosen():
    figure = routing_figure({"base": BEFORE, "checkpoint": AFTER, "reference": BEFORE}, "Routing", "1")
    panels = {s.meta["panel"]: s for s in figure.data if s.type == "heatmap"}
    assert list(panels) == ["before", "after", CHANGE, "reference"]
    np.testing.assert_allclose(np.asarray(panels[CHANGE].z), AFTER.probability - BEFORE.probability)
    assert {panels[name].coloraxis for name in ("before", "after", "reference")} == {"coloraxis"}
    assert figure.layout.coloraxis.cmax == 0.8 and figure.layout.coloraxis2.cmax == pytest.approx(0.4)
    marks = {s.marker.symbol: list(zip(s.y, s.x, strict=True)) for s in figure.data if s.type == "scatter"}
    assert marks["triangle-up"] == [("1 ·b", "0")] and marks["triangle-down"] == [("1 ·b", "1")]
    assert "1 of 3 choices are no longer made after" in alt_text(figure)
    assert "before: expert 0 gets 1 of 3 tokens" in alt_text(figure) and "after: expert 0 gets 2 of 3" in alt_text(
        figure
    )
    assert "<b>" not in json.dumps(figure.to_plotly_json(), default=str).replace("2 &lt;b&gt;", "")
    table = table_of(figure)
    assert len(table) == rows_of(figure) == 36 and set(table["token"]) == {"0 a", "1 ·b", "2 <b>"}
    same = routing_figure({"base": BEFORE, "checkpoint": BEFORE}, "Routing")
    assert "0 of 3 choices" in alt_text(same)
    drawn = clickable(figure, None, "after")
    number = next(i for i, s in enumerate(drawn.data) if isinstance(s.meta, list | tuple) and s.meta[1] == "after")
    assert clicked(drawn, {"curve_number": number, "point_index": 4}) == CellAt("1 ·b", "1")


def test_models_of_other_tokens_have_no_difference_and_an_unknown_router_is_drawn_by_its_weights():
    other = grid([[0.7, 0.3]], [[1, 0]], ("z",))
    figure = routing_figure({"base": BEFORE, "checkpoint": other}, "Routing")
    assert CHANGE not in {s.meta["panel"] for s in figure.data if s.type == "heatmap"}
    blind = grid(np.full((3, 3), np.nan), BEFORE.chosen)
    figure = routing_figure({"checkpoint": blind}, "Routing")
    panel = next(s for s in figure.data if s.type == "heatmap")
    assert np.asarray(panel.z).tolist() == [[0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5]]
    assert "routing weight" in alt_text(figure) and figure.layout.coloraxis.cmax == 0.5


def test_many_experts_stand_below_each_other():
    wide = grid(np.full((3, 64), 1 / 64), np.eye(3, 64))
    figure = routing_figure({"base": wide, "checkpoint": wide}, "Routing")
    domains = {s.yaxis for s in figure.data if s.type == "heatmap"}
    assert len(domains) == 3 and figure.layout.height > routing_figure({"base": wide}, "Routing").layout.height
