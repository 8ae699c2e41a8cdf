"""What lies on disk is put back where the open model holds it, whatever a checkpoint calls and cuts it."""

from pathlib import Path

import pytest
import torch

from workbench.checkpoint import Checkpoint
from workbench.demo.planted import plant
from workbench.errors import BadInput
from workbench.model import HookedModel, weights_digest
from workbench.receipts import bits
from workbench.restoring import restored, stored_value, stored_weights, way_out, weights_of

GOLDEN = Path(__file__).parents[1] / "golden" / "models"


@pytest.fixture(scope="module", params=["gpt2", "llama_base", "olmoe"])
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> HookedModel:
    """Value vectors stored as rows, as columns, and an expert each; the first with a tied unembedding."""
    if request.param == "olmoe":
        return Checkpoint(plant("olmoe", 0).save(tmp_path_factory.mktemp("olmoe"))).open()
    return Checkpoint(GOLDEN / request.param).open()


def test_every_parameter_is_found_in_its_own_files_bit_for_bit(opened: HookedModel) -> None:
    with stored_weights(Checkpoint(opened.folder)) as shards:
        for name in opened.parameter_names():
            assert torch.equal(bits(stored_value(opened, name, shards)), bits(opened.parameter(name).detach())), name


def test_a_model_of_noise_becomes_the_stored_one_and_noise_again(opened: HookedModel) -> None:
    digest = weights_digest(opened.hf)
    names = opened.parameter_names()
    with torch.no_grad():
        for name in names:
            opened.parameter(name).add_(1)
    noise = weights_digest(opened.hf)
    with stored_weights(Checkpoint(opened.folder)) as shards:
        with restored(opened, names, shards):
            assert weights_digest(opened.hf) == digest
        assert weights_digest(opened.hf) == noise
        with pytest.raises(RuntimeError), restored(opened, names, shards):
            raise RuntimeError
        assert weights_digest(opened.hf) == noise
        with torch.no_grad():
            for name in names:
                opened.parameter(name).copy_(stored_value(opened, name, shards))
    assert weights_digest(opened.hf) == digest


def test_groups_share_a_layer_out_and_leave_the_other_layers_alone(opened: HookedModel) -> None:
    groups = {group: set(weights_of(opened, [1], group)) for group in ("value_vectors", "mlp", "attention", "layer")}
    assert groups["value_vectors"] < groups["mlp"] < groups["layer"]
    assert groups["attention"] < groups["layer"] and not groups["attention"] & groups["mlp"]
    assert not groups["layer"] & set(weights_of(opened, [0], "layer"))
    assert not groups["layer"] & set(way_out(opened))


def test_another_model_is_refused(opened: HookedModel, tmp_path: Path) -> None:
    other = Checkpoint(plant("llama", 0).save(tmp_path))
    with stored_weights(other) as shards, pytest.raises(BadInput, match="one architecture|does not store|cannot"):
        for name in opened.parameter_names():
            stored_value(opened, name, shards)
