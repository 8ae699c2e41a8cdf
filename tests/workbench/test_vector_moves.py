"""Snapshots of vectors compared by hand-made cases."""

import numpy as np
import pytest

from workbench.figures_style import alt_text, table_of
from workbench.figures_vectors import vector_scatter
from workbench.trace import Trace
from workbench.vector_moves import ids_at, moves, ranks

SITES = ("L0.mlp_act[3]", "L1.mlp_act[5]")


def snapshot(vectors, ids, sites=SITES) -> Trace:
    labels = {"site": sites, "d_model": ("0", "1")}
    notes = {"top_ids": dict(zip(sites, ids, strict=True))}
    return Trace(
        "concept_vectors.snapshot", np.array(vectors, np.float32), ("site", "d_model"), "weight", labels, notes
    )


BASE = snapshot([[1, 0], [0, 2]], [[1, 2, 3, 4], [5, 6, 7, 8]])
AFTER = snapshot([[0, 1], [0, 1]], [[9, 2, 1, 10], [5, 6, 7, 8]])


def test_numbers_of_two_vectors():
    table = moves(BASE, AFTER, 4).set_index("vector")
    assert list(table.index) == list(SITES)  # most changed first
    turned, shorter = table.loc[SITES[0]], table.loc[SITES[1]]
    assert (turned["Jaccard"], turned["cosine"], turned["length after / before"]) == (2 / 6, 0, 1)
    assert (shorter["Jaccard"], shorter["cosine"], shorter["length after / before"]) == (1, 1, 0.5)


def test_only_the_first_k_tokens_count():
    assert moves(BASE, AFTER, 1).set_index("vector").loc[SITES[0], "Jaccard"] == 0


def test_an_erased_vector_has_no_direction():
    gone = moves(BASE, snapshot([[0, 0], [0, 2]], [[1, 2, 3, 4], [5, 6, 7, 8]]), 4).set_index("vector").loc[SITES[0]]
    assert np.isnan(gone["cosine"]) and gone["length after / before"] == 0 and gone["Jaccard"] == 1


def test_ranks_say_what_moved_where():
    table = ranks(BASE, AFTER, SITES[0], 4)
    assert list(table["token id before"]) == [1, 2, 3, 4]
    assert list(table["token id after"]) == [9, 2, 1, 10]
    assert list(table["moved"]) == ["new", "=", "▼ −2", "new"]
    assert list(ranks(AFTER, BASE, SITES[0], 3)["moved"])[0] == "▲ +2"


def test_words_stand_beside_the_ids_where_both_spell_them_and_do_nothing():
    spelled = [
        Trace(t.name, t.values, t.axes, t.units, t.labels, {**t.notes, "vocabulary": {"1": " tin", "9": "\x1b[31m"}})
        for t in (BASE, AFTER)
    ]
    table = ranks(*spelled, SITES[0], 2)
    assert list(table["token before"]) == ["·tin", "?"]
    assert "\x1b" not in "".join(table["token after"])
    assert "token before" not in ranks(BASE, spelled[1], SITES[0], 2)


def test_ids_may_be_stored_in_the_order_of_the_sites():
    listed = Trace(BASE.name, BASE.values, BASE.axes, BASE.units, BASE.labels, {"top_ids": [[1], [5]]})
    assert ids_at(listed, SITES[1]) == [5] and ids_at(listed, "L9.mlp_act[0]") == []


@pytest.mark.parametrize("k", [2, 4])
def test_the_picture_draws_the_table(k):
    table = moves(BASE, AFTER, k)
    figure = vector_scatter({"checkpoint": table}, k)
    assert sorted(table_of(figure)["Jaccard"]) == sorted(table["Jaccard"])
    assert "checkpoint: mean Jaccard" in alt_text(figure) and f"top {k} tokens" in str(figure.layout.yaxis.title.text)
