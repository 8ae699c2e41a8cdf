"""Value vectors moved on purpose: exactly those have a distance, it is the one they were moved by, no other has one."""

import contextlib
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from probes.concept_vectors import controls_of
from probes.moved_vectors import MovedVectors
from workbench.checkpoint import Checkpoint
from workbench.edits import kept
from workbench.errors import BadInput
from workbench.sites import Site, parse_sites

HOW_FAR = {"zeroed": (0.0, 1.0), "doubled": (2.0, 1.0), "turned round": (-1.0, 2.0), "shrunk": (0.75, 0.25)}
"""What a vector is multiplied by, and how far that moves it in its lengths."""


@contextlib.contextmanager
def moved(known, sites: list[Site], factor: float) -> Iterator[None]:
    stored = known.model.stored_at(sites)
    with kept(known.model, sorted({name for name, _ in stored})), torch.no_grad():
        for _, vector in stored:
            vector.mul_(factor)
        yield


def look(known):
    return MovedVectors().look(known.model, known.concept.forget, Checkpoint(known.model.folder))


def at(trace, sites) -> np.ndarray:
    return np.array([trace.values[trace.labels["site"].index(str(s.whole)), s.index] for s in sites])


def test_a_model_has_not_moved_from_itself(known):
    trace = look(known)
    assert trace.axes == ("site", "neuron") and (trace.values == 0).all() and trace.notes["from_zero"] == {}
    every = [str(site) for site, _ in known.model.mlps()]
    assert list(trace.labels["site"]) == every and set(trace.notes["widths"].values()) == {48}


@pytest.mark.parametrize("how", HOW_FAR)
def test_what_was_moved_is_where_it_was_moved_and_nothing_else_is(known, how):
    factor, distance = HOW_FAR[how]
    sites = list(known.planted.sites_of(known.concept.forget.facts))
    with moved(known, sites, factor):
        trace = look(known)
    np.testing.assert_allclose(at(trace, sites), distance, rtol=1e-5)
    assert (trace.values > 0).sum() == len(set(sites))


def test_what_stands_where_nothing_stood_has_no_number(known, tmp_path):
    sites = list(known.planted.sites_of(known.concept.forget.facts[:2]))
    with moved(known, sites, 0.0):
        known.model.hf.save_pretrained(tmp_path / "base")
        known.model.tokenizer.save_pretrained(tmp_path / "base")
        same = MovedVectors().look(known.model, known.concept.forget, Checkpoint(tmp_path / "base"))
    assert (same.values == 0).all()  # zero before and zero now did not move
    trace = MovedVectors().look(known.model, known.concept.forget, Checkpoint(tmp_path / "base"))
    assert np.isnan(at(trace, sites)).all() and np.isnan(trace.values).sum() == 2 and np.nanmax(trace.values) == 0
    told = {(site, neuron) for site, found in trace.notes["from_zero"].items() for neuron in found}
    assert told == {(str(site.whole), site.index) for site in sites}


def test_a_base_of_another_architecture_is_refused(dense, mixture):
    for known, other in ((dense, mixture), (mixture, dense)):
        with pytest.raises(BadInput):
            MovedVectors().look(known.model, known.concept.forget, Checkpoint(other.model.folder))


@pytest.mark.parametrize("each", [1, 3, 99])
def test_more_random_vectors_come_from_the_same_mlps_as_far_as_there_are_others(known, each):
    sites = list(dict.fromkeys(known.planted.sites_of(known.concept.forget.facts)))[:4]
    others = controls_of(known.model, sites, 0, each)
    assert len(set(others)) == len(others) and not set(others) & set(sites)
    for mlp in {site.whole for site in sites}:
        taken = sum(site.whole == mlp for site in sites)
        assert sum(site.whole == mlp for site in others) == min(each * taken, 48 - taken)
    assert {site.whole for site in others} == {site.whole for site in sites}
    assert others == controls_of(known.model, sites, 0, each) != controls_of(known.model, sites, 1, each)
    assert parse_sites(map(str, others)) == tuple(others)
