"""Vectors that pages show beside the found ones: whose they are, and that the claim about vectors does not see them."""

from dataclasses import replace

import numpy as np
import pytest

from audits.claims import CLAIMS
from audits.judge import Judge, JudgeOptions
from audits.read import ReadingOptions, asked_keys
from audits.reading_vectors import RANDOM_VECTORS
from audits.reading_ways import Asked
from audits.readings import BY_KEY, READINGS
from workbench.checkpoint import Checkpoint
from workbench.errors import BadInput
from workbench.sites import parse_sites

FOUND, MOVED = "concept_vectors.forget", "moved_vectors.forget"
CLAIM = next(claim for claim in CLAIMS if claim.id == "vectors")


@pytest.fixture(scope="module")
def both(planted, planted_folder, ablated_folder):
    """The readings of the planted model and of the one that lost its facts, and how they were asked."""
    options, read = ReadingOptions(vectors=6, random_vectors=3), {}
    for role, folder in (("base", planted_folder), ("checkpoint", ablated_folder)):
        with Checkpoint(folder).open() as model:
            own = {}
            base, files = (read["base"], Checkpoint(planted_folder)) if role != "base" else (None, None)
            asked = Asked(model, planted.concept, options, base, own, files)
            if base is not None:
                with pytest.raises(BadInput, match="base's files"):
                    BY_KEY[MOVED].take(replace(asked, base_files=None))
                with pytest.raises(BadInput, match="random vectors"):
                    BY_KEY[RANDOM_VECTORS].take(replace(asked, base={}))
            for key in asked_keys([RANDOM_VECTORS, MOVED], role):
                own[key] = BY_KEY[key].of(asked)
            read[role] = own
    return read


def test_random_ones_are_of_the_same_mlps_and_the_same_in_every_model(both):
    found, others = (parse_sites(both["base"][key].labels["site"]) for key in (FOUND, RANDOM_VECTORS))
    assert len(found) == 6 and len(others) == 18 and not set(found) & set(others)
    assert {site.whole for site in found} == {site.whole for site in others}
    assert both["checkpoint"][RANDOM_VECTORS].labels == both["base"][RANDOM_VECTORS].labels
    assert both["base"][FOUND].notes["k"] == both["base"][RANDOM_VECTORS].notes["k"]


def test_the_ablation_took_found_ones_and_left_random_ones(both, planted):
    cut = {str(site) for site in planted.sites_of(planted.concept.forget.facts)}
    for key in (FOUND, RANDOM_VECTORS):
        before, after = both["base"][key], both["checkpoint"][key]
        gone = {s for s, row in zip(after.labels["site"], after.values, strict=True) if not row.any()}
        assert gone == cut & set(before.labels["site"])
    assert gone < set(both["base"][RANDOM_VECTORS].labels["site"])
    moved = both["checkpoint"][MOVED]
    there = {f"{moved.labels['site'][i]}[{j}]" for i, j in np.argwhere(moved.values > 0)}
    assert there == cut and np.allclose(moved.values[moved.values > 0], 1)


def test_the_base_is_not_held_against_itself(both):
    assert MOVED not in both["base"] and MOVED in asked_keys([MOVED], "reference")
    assert MOVED not in asked_keys([MOVED], "base") and RANDOM_VECTORS in asked_keys([RANDOM_VECTORS], "base")


def test_the_claim_rests_on_found_vectors_alone(both):
    """Its numbers are the same to the last bit with the shown readings and without, whatever those say."""

    def judged(readings):
        return Judge(readings["checkpoint"], readings["base"], None, JudgeOptions(draws=200)).one(CLAIM)

    found = {role: {FOUND: traces[FOUND]} for role, traces in both.items()}
    swapped = {role: {**traces, RANDOM_VECTORS: traces[FOUND]} for role, traces in both.items()}
    assert CLAIM.reading == FOUND
    alone = judged(found)
    assert alone.value is not None and alone.value.n == 6
    assert judged(both) == judged(swapped) == alone
    assert not {RANDOM_VECTORS, MOVED} & {key for row in READINGS for key in row.rests_on}
