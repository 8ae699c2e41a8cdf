"""Names keep clear of marks and of each other at any width; where there is room they stand beside their mark."""

import itertools

import numpy as np
import pytest

from tests.workbench.test_figures_tradeoff import audit
from workbench.figures_labels import FONT, labels
from workbench.figures_tradeoff import tradeoff

RANGES = ([1.05, -0.15], [0.1, 1.1])


def boxes(found, names, width: float, height: float) -> dict[str, np.ndarray]:
    """Left, bottom, right, top of each name in pixels, worked out from what plotly is told."""
    made = {}
    for name, label in found.items():
        (x0, x1), (y0, y1) = RANGES
        at = np.array([(names[name][0] - x0) / (x1 - x0) * width, (names[name][1] - y0) / (y1 - y0) * height])
        wide = 0.55 * FONT * len(name)  # a letter of a sans-serif is about half as wide as it is high
        left = at[0] + label.dx - {1: 0, 0: wide / 2, -1: wide}[label.side[0]]
        bottom = at[1] + label.dy - {1: 0, 0: FONT / 2, -1: FONT}[label.side[1]]
        made[name] = np.array([left, bottom, left + wide, bottom + FONT])
    return made


def overlap(one: np.ndarray, other: np.ndarray) -> bool:
    return bool((one[:2] < other[2:]).all() and (other[:2] < one[2:]).all())


CLOSE = {f"checkpoint-{i}": (0.02 + 0.004 * i, 0.95 - 0.003 * i) for i in range(6)}
STARS = [(0.0, 0.99), (1.0, 0.95)]


@pytest.mark.parametrize("width", [480, 700, 860, 1240, 1450])
def test_names_of_close_marks_overlap_nothing(width):
    names = {"npo": (0.025, 0.988)} | CLOSE
    found = labels(names, [*names.values(), *STARS], RANGES)
    assert set(found) == set(names)
    drawn = boxes(found, names, width, 360)
    for one, other in itertools.combinations(drawn, 2):
        assert not overlap(drawn[one], drawn[other]), (one, other)
    for x, y in [*names.values(), *STARS]:
        mark = np.array([(x - 1.05) / -1.2 * width, (y - 0.1) * 360])
        for name, box in drawn.items():
            assert not overlap(box, np.concatenate([mark - 6, mark + 6])), name


def test_names_with_room_stand_beside_their_mark_and_within_the_picture():
    names = {"left": (1.0, 0.5), "middle": (0.5, 0.5), "right": (-0.1, 0.5)}
    found = labels(names, list(names.values()), RANGES)
    assert not any(label.far for label in found.values())
    for width in (480, 1450):
        for box in boxes(found, names, width, 360).values():
            assert box[0] >= 0 and box[2] <= width


def test_a_name_that_finds_no_place_is_missing_rather_than_in_the_way():
    crowd = {f"model-{i}": (0.5, 0.5) for i in range(60)}
    found = labels(crowd, list(crowd.values()), RANGES)
    assert 5 < len(found) < 60


def test_the_picture_says_which_names_found_no_room():
    crowd = {f"model-{i}": audit(f"model-{i}", 0.5, 0.9) for i in range(60)}
    alone = {"one": audit("one", 0.1, 0.9), "two": audit("two", 0.6, 0.5)}
    assert "No room for the names of" in tradeoff(crowd, "direct", "near").layout.meta["alt"]
    figure = tradeoff(alone, "direct", "near", "one")
    assert "No room" not in figure.layout.meta["alt"]
    assert [note.text for note in figure.layout.annotations] == ["<b>one</b>", "two"]


def test_long_names_stay_apart_by_their_letters():
    twins = {f"runs/with/a/very/long/name/{i}": audit(str(i), 0.1 + i / 2, 0.9) for i in range(2)}
    texts = [note.text for note in tradeoff(twins, "direct", "near").layout.annotations]
    assert len(set(texts)) == 2
