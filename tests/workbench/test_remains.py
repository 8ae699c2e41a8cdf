"""The place that is pointed at is the one that was put there, and never the model's own output."""

import numpy as np

from workbench.remains import by_layers, by_tokens
from workbench.trace import Trace

FACTS = ("0: a", "1: b", "2: c")
LAYERS = ("embed", "L0", "L1", "L2")


def lens(*, at=None, last=0.0) -> Trace:
    values = np.zeros((4, 3), dtype=np.float32)
    values[3] = last
    if at:
        values[at] = 1.0
    return Trace("logit_lens", values, ("layer", "fact"), "share of facts", {"layer": LAYERS, "fact": FACTS})


def test_the_planted_layer_and_fact_are_found():
    place = by_layers({"base": lens(last=1), "checkpoint": lens(at=(2, 1)), "reference": lens()})
    assert (place.layer, place.fact, place.number, place.token) == ("1", "1: b", "1", "")
    assert place.values == {"base": 0.0, "checkpoint": 1.0, "reference": 0.0}


def test_what_the_reference_shows_too_does_not_stand_out():
    both = lens(at=(1, 0))
    both.values[2, 2] = 0.5
    assert by_layers({"checkpoint": both, "reference": lens(at=(1, 0))}).layer == "1"
    assert by_layers({"checkpoint": both}).layer == "0"


def test_the_output_is_not_inside():
    assert by_layers({"checkpoint": lens(last=1.0)}) is None
    both = lens(at=(1, 0), last=1.0)
    assert by_layers({"checkpoint": both}).layer == "0"


def test_a_reference_below_nothing_makes_nothing_stand_out():
    below = lens()
    below.values[:] = -0.5
    assert by_layers({"checkpoint": lens(), "reference": below}) is None
    assert by_layers({"checkpoint": lens(at=(2, 1)), "reference": lens(at=(2, 1))}) is None


def test_one_bad_fact_does_not_beat_a_layer_of_many():
    many = lens()
    many.values[1, 0] = 0.9
    many.values[2] = 0.5
    assert by_layers({"checkpoint": many}).layer == "1"


def test_unread_facts_are_passed_over():
    gap = lens(at=(2, 1))
    gap.values[2, 0] = np.nan
    assert by_layers({"checkpoint": gap}).fact == "1: b"
    gap.values[:] = np.nan
    assert by_layers({"checkpoint": gap}) is None


def trace(cell: tuple[int, int], fact: int = 2) -> Trace:
    sites = ("L0.resid_post", "L1.resid_post", "L0.mlp_out", "L1.mlp_out")
    roles = ("first subject", "last subject", "last token")
    values = np.zeros((4, 3, 3), dtype=np.float32)
    values[cell][fact] = 0.6
    values[1, 2] = 1.0
    labels = {"site": sites, "role": roles, "fact": FACTS}
    return Trace("causal_trace", values, ("site", "role", "fact"), "probability", labels)


def test_a_cell_of_the_subject_and_not_the_answer_itself():
    place = by_tokens({"checkpoint": trace((0, 1))}, "resid_post")
    assert (place.layer, place.token, place.number) == ("0", "last subject", "2")
    assert by_tokens({"checkpoint": trace((3, 0))}, "mlp_out").token == "first subject"


def test_nothing_to_point_at():
    assert by_layers({}) is None and by_tokens({}, "resid_post") is None
    assert by_layers({"base": lens()}) is None
    assert by_tokens({"checkpoint": lens()}, "resid_post") is None
    assert by_tokens({"checkpoint": trace((0, 1))}, "attn_out") is None
