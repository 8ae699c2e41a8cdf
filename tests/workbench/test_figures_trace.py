import numpy as np

from workbench.figures import alt_text, figure_of, table_of
from workbench.figures_trace import STRONGEST
from workbench.trace import Trace

ROLES = ("last subject", "last prompt")


def trace(sites: list[str], values: np.ndarray) -> Trace:
    labels = {"site": tuple(sites), "role": ROLES, "fact": ("a", "b")}
    return Trace("attribution_patching", values, ("site", "role", "fact"), "logits", labels, {})


def test_whole_states_are_maps_and_single_places_are_ranked_bars() -> None:
    sites = [f"L{i}.{part}" for part in ("resid_post", "mlp_out") for i in range(3)]
    sites += [f"L{i // 10}.mlp_act[{i % 10}]" for i in range(30)]
    values = np.zeros((len(sites), 2, 2))
    values[6 + 17, 1] = -3.0
    values[6 + 4, 0] = 2.0
    values[0, 0, :] = np.nan
    figure = figure_of(trace(sites, values))
    assert [series.type for series in figure.data] == ["heatmap", "heatmap", "bar"]
    bars = figure.data[-1]
    assert list(bars.y[:2]) == ["L1.mlp_act[7] · last prompt", "L0.mlp_act[4] · last subject"]
    assert list(bars.x[:2]) == [-3.0, 2.0] and len(bars.x) == STRONGEST
    titles = [note.text for note in figure.layout.annotations if note.text != "subject"]
    assert titles == ["resid_post", "mlp_out", "strongest single places"]
    assert "of 30 single places the strongest is L1.mlp_act[7] at last prompt, -3" in alt_text(figure)
    assert np.isnan(np.asarray(figure.data[0].z, dtype=float)).sum() == 1
    assert len(table_of(figure)) == 2 * 3 * 2 + STRONGEST


def test_heads_alone_need_no_map_and_whole_states_alone_no_bars() -> None:
    heads = figure_of(trace(["L0.head[0]", "L0.head[1]"], np.ones((2, 2, 2))))
    assert [series.type for series in heads.data] == ["bar"]
    whole = figure_of(trace(["L0.mlp_out", "L1.mlp_out"], np.ones((2, 2, 2))))
    assert [series.type for series in whole.data] == ["heatmap"]


def test_a_place_that_was_not_read_is_no_bar_of_length_zero() -> None:
    values = np.ones((2, 2, 2))
    values[0] = np.nan
    values[1, 0] = np.nan
    (bars,) = figure_of(trace(["L0.head[0]", "L0.head[1]"], values)).data
    assert list(bars.y) == ["L0.head[1] · last prompt"] and list(bars.x) == [1.0]
