"""The pictures of a comparison draw its numbers: overlap and chance, entries, two changes, what a change points at."""

from typing import Any

import numpy as np
import pytest
import torch

from workbench.compare import row_of
from workbench.comparison import CompareOptions, Comparison
from workbench.comparison_rows import COLUMNS, LATER, WITHOUT_OVERLAP, TensorRow
from workbench.entry_bins import ZERO
from workbench.errors import BadInput
from workbench.figures_alignment import MOST, alignment_map, alignment_of, places_of
from workbench.figures_entries import entries_histogram
from workbench.figures_overlap import angle_map, chance_of, overlap_lines, why_no_overlap
from workbench.figures_style import alt_text, table_of
from workbench.figures_two_changes import two_changes
from workbench.figures_weights import stat_map
from workbench.tensor_change import change_of


def matrix(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def row(layer: int, before: torch.Tensor, after: torch.Tensor, **more: Any) -> TensorRow:
    """One row of a comparison, as `compare` makes it."""
    about = {"module": "mlp", "matrix": "up_proj", "expert": None, **more}
    shape = " × ".join(map(str, before.shape))
    blank = TensorRow(
        f"l.{layer}.{about['matrix']}", layer=layer, shape=shape, entries=before.numel(), status="", **about
    )
    return row_of(blank, (before, after), CompareOptions(base_directions=4))


BASE = matrix(40, 60, seed=0)
U, S, V = torch.linalg.svd(BASE, full_matrices=False)
ALONG = BASE - 0.5 * S[0] * torch.outer(U[:, 0], V[0])
"""The base's strongest direction halved."""
ANYWHERE = BASE + 0.1 * torch.outer(matrix(40, seed=1), matrix(60, seed=2))
"""A random direction added."""


@pytest.fixture(scope="module")
def along() -> Comparison:
    """Layer 0 as it was, layer 1 along the base, layer 2 anywhere."""
    rows = [row(0, BASE, BASE), row(1, BASE, ALONG), row(2, BASE, ANYWHERE)]
    return Comparison.of_rows(("b", "c"), rows, made_by=CompareOptions().spec())


def heat(figure: Any, place: int = 0) -> np.ndarray:
    """The numbers of one drawn panel."""
    panels = [series for series in figure.data if series.type == "heatmap" and series.meta]
    return np.asarray(panels[place].z, dtype=float)


def test_an_overlap_is_coloured_and_chance_is_grey(along: Comparison) -> None:
    figure = stat_map(along, "left_overlap")
    assert np.isnan(heat(figure)[[0, 2], 0]).all() and heat(figure)[1, 0] == pytest.approx(1, abs=1e-4)
    marked = next(series for series in figure.data if series.text is not None)
    assert list(np.asarray(marked.text)[:, 0]) == ["", "", "≈"]
    told = table_of(figure).set_index("layer")
    assert told.loc["1", "chance"] == pytest.approx(4 / 40) and told.loc["1", "times chance"] == pytest.approx(
        10, rel=1e-3
    )
    assert 0 < told.loc["2", "left_overlap"] < 0.35
    assert "1 of 2 cells are no further from chance" in alt_text(figure)
    assert table_of(stat_map(along, "right_overlap")).set_index("layer").loc["1", "chance"] == pytest.approx(4 / 60)


def test_a_cell_of_several_tensors_tells_the_overlap_of_the_most_changed_and_the_largest_rank() -> None:
    small = ANYWHERE * 1.0
    rows = [row(0, BASE, ALONG, expert=0), row(0, BASE, small, expert=0, matrix="down_proj")]
    made = Comparison.of_rows(("b", "c"), rows)
    assert [s.meta["panel"] for s in stat_map(made, "rank").data if s.meta] == ["by matrix", "by expert"]
    sizes = made.table["change_norm"].tolist()
    wanted = made.table["left_overlap"][int(np.argmax(sizes))]
    assert table_of(stat_map(made, "left_overlap")).query("panel == 'by expert'")["left_overlap"].item() == wanted
    assert table_of(stat_map(made, "rank")).query("panel == 'by expert'")["rank"].item() == made.table["rank"].max()


def test_one_tensor_beside_its_base(along: Comparison) -> None:
    one = along.table.iloc[1].to_dict()
    lines = table_of(overlap_lines(one))
    first = lines[(lines["panel"] == "share inside") & (lines["number"] == 1)].set_index("series")
    assert (
        first.loc["left", "inside"] == pytest.approx(1, abs=1e-4) and first.loc["left, by chance", "by chance"] == 0.1
    )
    angles = lines[lines["panel"] == "principal angles"].set_index("series")
    assert angles.loc["right", "cosine"] > angles.loc["right, by chance", "by chance"]
    assert "first direction 1, by chance 0.1 ±" in alt_text(overlap_lines(one))
    np.testing.assert_allclose(heat(angle_map(one))[:, 0], [1, 0, 0, 0], atol=1e-3)
    assert "left: largest 1, the change's direction 1 with the base's 1" in alt_text(angle_map(one))
    mean, spread = chance_of(along.table.iloc[2].to_dict(), "left")
    assert mean == 0.1 and 0 < spread < 0.1


def test_why_there_is_no_overlap() -> None:
    def why(before: torch.Tensor, after: torch.Tensor, note: str = "") -> str:
        blank = row(0, before, after, note=note)
        return why_no_overlap(Comparison.of_rows(("b", "c"), [blank]).table.iloc[0].to_dict())

    assert why(BASE, ALONG) == ""
    assert "a vector" in why(BASE[0], ALONG[0])
    assert "no direction above what rounding leaves" in why(BASE, BASE.bfloat16())
    assert "has no direction" in why(torch.zeros(3, 4), torch.ones(3, 4), "stored as something else")
    large = torch.ones(1025, 1025)
    large[0] = 0
    assert why(large, large * torch.arange(1025.0)[:, None].clamp(max=2)).endswith("larger than overlap_below=1024")
    off = change_of(BASE, ALONG, CompareOptions(base_directions=0)).why_no_overlap
    assert off.startswith(WITHOUT_OVERLAP) and why(BASE[:, :0], ALONG[:, :0]) == "a vector has no directions of its own"


def test_the_histogram_draws_every_entry() -> None:
    moved = BASE.clone()
    moved[0, :5] += 2.0
    one = Comparison.of_rows(("b", "c"), [row(0, BASE, moved)]).table.iloc[0].to_dict()
    drawn = table_of(entries_histogram(one)).set_index("series")
    assert drawn.loc["change", "entries"].sum() == drawn.loc["base", "entries"].sum() == 2400
    change = drawn.loc["change"].set_index("size")["entries"].dropna()
    assert change[0] == 2395 and change.drop(0).sum() == 5 and (change.drop(0).index > 0).all()
    assert "99.8% of 2,400 did not change" in alt_text(entries_histogram(one))
    assert one["change_counts"][ZERO] == 2395


def test_two_changes_share_a_scale_and_their_difference_is_a_factor(along: Comparison) -> None:
    tenfold = Comparison.of_rows(
        ("b", "r"), [row(0, BASE, BASE), row(1, BASE, BASE + 10 * (ALONG - BASE)), row(2, BASE, BASE)]
    )
    figure = two_changes(along, tenfold, "relative_change")
    first, second, ratio = (heat(figure, place)[:, 0] for place in range(3))
    assert np.isnan(first[0]) and np.isnan(second[[0, 2]]).all() and np.isnan(ratio[0])
    assert second[1] - first[1] == pytest.approx(1, abs=1e-5) and ratio[1] == pytest.approx(-1, abs=1e-5)
    assert ratio[2] == figure.layout.coloraxis2.cmax == -figure.layout.coloraxis2.cmin
    told = table_of(figure)
    assert told["checkpoint / reference"].dropna().tolist()[0] == pytest.approx(0.1, rel=1e-5)
    marks = [series.text for series in figure.data if series.text is not None and series.meta]
    assert np.asarray(marks[-1])[2, 0] == "∞"
    ranks = two_changes(along, tenfold, "rank")
    np.testing.assert_array_equal(heat(ranks, 2)[:, 0], [0, 0, 1])
    assert "checkpoint: 2 of 3 cells above 0" in alt_text(ranks)
    lines = two_changes(along, tenfold, "left_overlap")
    assert list(table_of(lines)["layer"].unique()) == ["1", "2"]


def test_two_changes_without_a_common_number_are_refused(along: Comparison) -> None:
    other = Comparison.of_rows(("b", "r"), [row(7, BASE, ALONG, matrix="q_proj", module="attention")])
    with pytest.raises(BadInput, match="no part in common"):
        two_changes(along, other, "rank")
    bare = Comparison.of_rows(("b", "r"), [row(1, BASE[:, :0], ALONG[:, :0])])
    with pytest.raises(BadInput, match="no number of this kind"):
        two_changes(along, bare, "left_overlap")


def test_a_table_without_the_later_columns_is_read(along: Comparison, tmp_path) -> None:
    along.save(tmp_path, page=False)
    again = Comparison.load(tmp_path)
    assert again.table[list(COLUMNS)].iloc[1]["left_cosines"] == along.table.iloc[1]["left_cosines"]
    assert again.table.iloc[1]["change_counts"] == along.table.iloc[1]["change_counts"]
    again.table.drop(columns=list(LATER)).to_parquet(tmp_path / "comparison.parquet")
    older = Comparison.load(tmp_path)
    assert older.table[list(LATER)].isna().all().all() and older.sentence() == along.sentence()
    assert "nothing known" in alt_text(stat_map(older, "left_overlap"))
    assert not (tmp_path / "comparison.html").exists()


# ---- the angle to the concept


def entry(site: str, direction: int, answer: tuple[float, float | None], vector: tuple[float, float]) -> dict[str, Any]:
    return {
        "site": site,
        "direction": direction,
        "share": 0.5,
        "answer_token": " <b>gold",
        "answer_cosine": answer[0],
        "answer_p": answer[1],
        "vector": f"{site}[3]",
        "vector_cosine": vector[0],
        "vector_p": vector[1],
    }


def test_what_is_nearer_than_chance_is_coloured() -> None:
    found = [
        entry("L0.mlp_act", 0, (0.9, 0.001), (0.2, 0.6)),
        entry("L0.mlp_act", 1, (0.2, 0.05), (0.4, 0.01)),
        entry("L1.mlp_act", 0, (0.3, None), (0.5, 0.049)),
    ]
    figure = alignment_map(found)
    answers, vectors = heat(figure, 0), heat(figure, 1)
    assert figure.data[0].y == ("L1.mlp_act", "L0.mlp_act")
    np.testing.assert_array_equal(answers, [[0.3, np.nan], [0.9, np.nan]])
    np.testing.assert_array_equal(vectors, [[0.5, np.nan], [np.nan, 0.4]])
    assert "nearest answer token: 1 of 3 directions nearer than chance, largest 0.9 at L0.mlp_act" in alt_text(figure)
    one = alignment_of(found, "L0.mlp_act")
    assert [series.marker.symbol for series in one.data] == [
        ("triangle-up", "triangle-up-open"),
        ("triangle-down-open", "triangle-down"),
    ]
    assert not any("<b>" in str([*series.text, *series.customdata, *series.y]) for series in one.data)
    assert "&lt;b&gt;gold (p 0.001)" in one.data[0].text[0]
    assert table_of(one)["p"].tolist() == [0.001, 0.05, 0.6, 0.01]
    alone = alignment_of(found, "L1.mlp_act")
    assert "no others to compare with" in alone.data[0].text[0] and alone.data[0].marker.symbol == ("triangle-up-open",)


def test_of_many_places_those_that_point_somewhere_are_drawn() -> None:
    found = [entry(f"L{i}.mlp_act", 0, (i / 100, 0.001), (0.1, 0.5)) for i in range(60)]
    figure = alignment_map(found)
    assert len(figure.data[0].y) == MOST and figure.data[0].y[0] == "L59.mlp_act" and len(places_of(found)) == 60
    assert f"The {MOST} of 60 places" in alt_text(figure)
    assert change_of(BASE, BASE, CompareOptions()).entries is None
