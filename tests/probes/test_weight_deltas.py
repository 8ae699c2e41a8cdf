"""Planted changes: identical checkpoints give zero, a change along an answer is seen as one, a random one is not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from interventions.concept_ablation import ConceptAblation
from probes.weight_deltas import WeightDeltas
from workbench.checkpoint import Checkpoint
from workbench.directions import beyond_chance, closeness, directions_of
from workbench.edits import fit_weights
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.trace import Trace


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Checkpoint]:
    """A checkpoint in which a rank-1 matrix was added to the down-projection of layer 1 (of expert 2)."""

    def write(known, direction: Tensor) -> Checkpoint:
        model, expert = known.model, 2 if known.model.mixture_layers else None
        store = model.value_vectors(1)
        neurons = torch.randn(48, generator=torch.Generator().manual_seed(1))

        def change() -> None:
            with torch.no_grad():
                rows = store.vectors if expert is None else store.vectors[expert]
                rows += 0.1 * neurons[:, None] * direction

        return fit_weights(model, [store.name], change, {"method": "test"}).write(model, tmp_path / "made")

    return write


def look(known, made: Checkpoint, **options: Any) -> Trace:
    with made.open() as model:
        return WeightDeltas(**options).look(model, known.concept.forget, Checkpoint(known.model.folder))


def answer_row(known) -> Tensor:
    return known.model.unembedding[known.model.encode(known.concept.forget.facts)[0].answer[0]].detach()


def test_identical_checkpoints_give_exactly_zero(known) -> None:
    base = Checkpoint(known.model.folder)
    found = WeightDeltas().look(known.model, known.concept.forget, base)
    there = np.isfinite(found.values)
    assert (found.values[there] == 0).all() and there.any()
    assert found.notes["alignment"] == [] and found.notes["spectra"] == []
    assert found.notes["why_no_alignment"] == "no down-projection was changed"
    assert found.notes["summary"]["parameters_changed"] == 0
    assert found.axes == ("layer", "module") and found.labels["layer"] == ("L0", "L1", "L2", "outside the layers")


def test_only_the_cell_that_was_changed_is_not_zero(known, written) -> None:
    found = look(known, written(known, answer_row(known)))
    cell = (found.labels["layer"].index("L1"), found.labels["module"].index("mlp"))
    assert found.values[cell] > 0
    others = found.values.copy()
    others[cell] = 0
    assert np.nan_to_num(others).max() == 0
    assert np.isnan(found.pick("module", "embedding").values[:3]).all()  # layers have no embedding: missing, not zero


def test_the_size_is_the_norm_of_the_change_over_the_bases(dense, written) -> None:
    direction = answer_row(dense)
    found = look(dense, written(dense, direction), by="matrix")
    base = dense.model.value_vectors(1).vectors.detach()
    neurons = torch.randn(48, generator=torch.Generator().manual_seed(1))
    wanted = float(0.1 * neurons.norm() * direction.norm() / base.norm())
    column = found.labels["matrix"].index("down_proj")
    assert found.pick("layer", "L1").values[column] == pytest.approx(wanted, rel=1e-4)
    assert found.plot().data


def test_a_change_along_an_answer_is_aligned_and_of_rank_one(known, written) -> None:
    found = look(known, written(known, answer_row(known)))
    (entry,) = [row for row in found.notes["alignment"] if row["direction"] == 0]
    assert entry["answer_cosine"] > 0.999
    assert entry["answer_token"] == known.concept.forget.facts[0].answer.split()[0] == entry["nearest_token"]
    assert entry["answer_p"] < 0.01
    assert entry["share"] > 0.999
    assert entry["site"] == ("L1.e2.mlp_act" if known.model.mixture_layers else "L1.mlp_act")
    (spectrum,) = found.notes["spectra"]
    assert spectrum["rank"] == 1 and "down_proj" in spectrum["tensor"]


def test_a_random_change_is_aligned_with_nothing(known, written) -> None:
    direction = torch.randn(128, generator=torch.Generator().manual_seed(7)) / 10
    entry = look(known, written(known, direction)).notes["alignment"][0]
    assert entry["answer_cosine"] < 0.5
    assert entry["answer_p"] > 0.05 and entry["vector_p"] > 0.01


def test_a_change_along_another_token_is_not_taken_for_the_answers(dense, written) -> None:
    terms = {e.answer[0] for e in dense.model.encode(dense.concept.forget.facts)}
    token = next(i for i in range(20, 999) if i not in terms)
    entry = look(dense, written(dense, dense.model.unembedding[token].detach())).notes["alignment"][0]
    assert entry["answer_cosine"] < 0.9 < entry["nearest_cosine"]
    assert entry["answer_p"] > 0.05


def test_cutting_out_value_vectors_is_a_change_along_them(dense, tmp_path) -> None:
    where = dense.planted.sites_of(dense.concept.forget.facts)
    edit = ConceptAblation(mode="zero").fit(dense.model, dense.concept, where)
    found = look(dense, edit.write(dense.model, tmp_path / "made"))
    entry = found.notes["alignment"][0]
    assert {row["site"] for row in found.notes["alignment"]} == {"L1.mlp_act"}
    assert entry["neurons_changed"] == len(set(where))
    assert entry["answer_p"] < 0.05 and entry["vector_p"] < 0.05
    assert entry["vector"] in {str(site) for site in where}


def test_experts_are_told_apart(mixture, written) -> None:
    found = look(mixture, written(mixture, answer_row(mixture)), by="expert")
    assert found.labels["expert"] == ("0", "1", "2", "3")
    assert np.argwhere(found.values > 0).tolist() == [[1, 2]]
    assert found.notes["experts_changed"] == [[1, 2]]
    assert found.plot().data


def test_a_dense_model_has_no_experts_to_compare(dense) -> None:
    with pytest.raises(BadInput, match="dense model"):
        WeightDeltas(by="expert").look(dense.model, dense.concept.forget, Checkpoint(dense.model.folder))


def test_a_trace_can_be_stored(dense, written, tmp_path) -> None:
    found = look(dense, written(dense, answer_row(dense)))
    found.save(tmp_path / "trace")
    assert Trace.load(tmp_path / "trace").notes["alignment"] == found.notes["alignment"]


# ---- directions


def test_directions_are_those_of_the_changed_rows_also_when_estimated(monkeypatch) -> None:
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(60, 3, generator=generator))[0].T for _ in range(2))
    change = sum(size * left[i, :, None] * right[i] for i, size in enumerate((9.0, 3.0, 1.0)))
    change = torch.cat([torch.zeros(5, 60), change])
    exact = directions_of(change, 5)
    assert exact.values.tolist() == pytest.approx([9, 3, 1], rel=1e-4)  # rank 3: two of the five are not there
    assert exact.share.tolist() == pytest.approx([81 / 91, 9 / 91, 1 / 91], rel=1e-4)
    assert closeness(exact.vectors[0], right).tolist() == pytest.approx([1, 0, 0], abs=1e-3)
    monkeypatch.setattr("workbench.directions.EXACT_BELOW", 0)
    rough = directions_of(change, 3)
    assert rough.values.tolist() == pytest.approx([9, 3, 1], rel=1e-2)
    assert closeness(rough.vectors[0], right)[0] == pytest.approx(1, abs=1e-3)


def test_no_change_has_no_directions_and_a_row_of_zeros_is_close_to_nothing() -> None:
    assert len(directions_of(torch.zeros(4, 6), 3).values) == 0
    assert closeness(torch.ones(2), torch.tensor([[0.0, 0.0], [1.0, 1.0]])).tolist() == pytest.approx([0, 1])


def test_chance_is_uniform_where_there_is_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    cosines = torch.rand(200, 60, generator=generator)
    p = np.array([beyond_chance(float(row[:5].max()), row[5:], 5, 199, i) for i, row in enumerate(cosines)])
    assert 0.4 < p.mean() < 0.6 and 0.02 < (p < 0.1).mean() < 0.2
    assert beyond_chance(2.0, cosines[0], 5, 199, 0) == 1 / 200


# ---- what cannot be compared


def test_a_model_without_a_folder_or_with_an_edit_or_adapter_is_refused(dense, tmp_path) -> None:
    facts, base = dense.concept.forget, Checkpoint(dense.model.folder)
    made = HookedModel(dense.planted.model, dense.planted.tokenizer, check=False)
    with pytest.raises(BadInput, match="not open from a folder"):
        WeightDeltas().look(made, facts, base)
    where = dense.planted.sites_of(facts.facts)
    with (
        ConceptAblation(mode="zero").fit(dense.model, dense.concept, where).on(dense.model),
        pytest.raises(BadInput, match="wears an edit"),
    ):
        WeightDeltas().look(dense.model, facts, base)
    # As `base+adapter` is opened: the base's folder, another digest.
    merged = HookedModel(
        dense.planted.model, dense.planted.tokenizer, digest="0" * 64, folder=dense.model.folder, check=False
    )
    with pytest.raises(BadInput, match="opened with an adapter"):
        WeightDeltas().look(merged, facts, base)
