"""Only the expert that is named moves: in memory by the bits, on disk by the tensors."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from interventions.gradient.grad_ascent import GradAscent
from workbench.checkpoint import Checkpoint
from workbench.demo.planted import plant
from workbench.edits import WeightEdit, fit_weights
from workbench.errors import BadInput
from workbench.experts import slice_name, slices_of, split_name, whole_names
from workbench.model import HookedModel
from workbench.objectives import answer_loss, labelled
from workbench.parameters import parameters_of
from workbench.sites import Site, parse_sites
from workbench.training import TrainingOptions, train

FUSED = [f"model.layers.1.mlp.experts.{name}" for name in ("gate_up_proj", "down_proj")]
STEEP = TrainingOptions(steps=3, lr=1e-2, batch_size=8, weight_decay=0.1)


@pytest.fixture
def moe() -> HookedModel:
    planted = plant("olmoe", 0)
    return HookedModel(planted.model, planted.tokenizer, check=False)


@pytest.fixture(scope="module")
def concept():
    return plant("olmoe", 0).concept


def mean_loss(model, batch) -> torch.Tensor:
    return answer_loss(model, batch).mean


def moved(model: HookedModel, before: dict[str, torch.Tensor]) -> dict[str, list[int]]:
    """Every parameter that changed, and along which first-axis entries."""
    after = model.hf.state_dict()
    return {
        name: (after[name] != old).reshape(len(old), -1).any(1).nonzero()[:, 0].tolist()
        for name, old in before.items()
        if not torch.equal(after[name], old)
    }


def trained(model: HookedModel, concept, names: list[str], options: TrainingOptions = STEEP) -> dict[str, list[int]]:
    before = {name: tensor.clone() for name, tensor in model.hf.state_dict().items()}
    items = model.encode(concept.forget.facts)
    train(model.hf, items, labelled, mean_loss, options, trainable=names)
    return moved(model, before)


def test_a_site_that_is_an_expert_names_its_slices(moe: HookedModel) -> None:
    assert parameters_of(moe, [Site.parse("L1.expert[2]")]) == [f"{name}[2]" for name in FUSED]
    assert parameters_of(moe, [Site(1, "mlp_act", None, 2)]) == [f"{name}[2]" for name in FUSED]
    assert parameters_of(moe, [Site.parse("L1.expert")]) == FUSED
    assert parameters_of(moe, [Site.parse("L1.router")]) == ["model.layers.1.mlp.gate.weight"]
    both = parameters_of(moe, parse_sites(["L1.expert[2]", "L1.mlp_out"]))
    assert sorted(both) == sorted([*FUSED, "model.layers.1.mlp.gate.weight"])  # the whole is not cut into itself
    assert parameters_of(moe, parse_sites(["L1.expert[2]", "L1.expert[2]", "L1.expert[0]"])) == [
        f"{name}[{expert}]" for expert in (2, 0) for name in FUSED
    ]


@pytest.mark.parametrize("text", ["L1.expert[4]", "L1.e2.mlp_act[3]", "L1.head[0]", "L1.mlp_act[0]"])
def test_what_is_no_expert_is_refused(moe: HookedModel, text: str) -> None:
    with pytest.raises(BadInput, match=r"experts 0 to 3|Training acts on"):
        parameters_of(moe, [Site.parse(text)])


@pytest.mark.parametrize("text", ["L1.expert[0]", "L1.router"])
def test_a_dense_layer_has_no_experts(text: str) -> None:
    planted = plant("llama", 0)
    with pytest.raises(BadInput, match="no mixture of experts"):
        parameters_of(HookedModel(planted.model, planted.tokenizer, check=False), [Site.parse(text)])


def test_names_of_slices_round_trip() -> None:
    assert split_name(slice_name("a.b", 12)) == ("a.b", 12)
    assert split_name("a.b") == ("a.b", None)
    assert whole_names(["a[1]", "b", "a[0]"]) == ["a", "b"]
    assert slices_of(["a[1]", "b", "a[0]", "b[3]"]) == {"a": [0, 1]}


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_only_the_named_expert_moves(moe: HookedModel, concept, weight_decay: float) -> None:
    options = STEEP.model_copy(update={"weight_decay": weight_decay})
    found = trained(moe, concept, parameters_of(moe, [Site.parse("L1.expert[2]")]), options)
    assert found == {name: [2] for name in FUSED}


def test_two_experts_and_a_router_move_together(moe: HookedModel, concept) -> None:
    names = parameters_of(moe, parse_sites(["L1.expert[2]", "L1.expert[0]", "L1.router"]))
    found = trained(moe, concept, names)
    assert found.keys() == {*FUSED, "model.layers.1.mlp.gate.weight"}
    assert [found[name] for name in FUSED] == [[0, 2], [0, 2]]


def test_muon_leaves_the_other_experts_too(moe: HookedModel, concept) -> None:
    options = STEEP.model_copy(update={"optimizer": "muon", "muon_weight_decay": 0.1})
    names = parameters_of(moe, parse_sites(["L1.expert[2]", "L0.attn_out"]))
    found = trained(moe, concept, names, options)
    assert [found[name] for name in FUSED] == [[2], [2]]
    assert "model.layers.0.self_attn.o_proj.weight" in found


@pytest.mark.parametrize("clip", [0.0, 1e-3])
def test_the_slice_moves_as_if_the_layer_had_been_trained_with_the_others_held(concept, clip: float) -> None:
    """One step of AdamW by hand on the gradient of the slice, clipped by the norm of the slices alone."""
    planted = plant("olmoe", 0)
    model = HookedModel(planted.model, planted.tokenizer, check=False)
    items = model.encode(concept.forget.facts)
    options = TrainingOptions(steps=1, lr=1e-2, batch_size=len(items), weight_decay=0.1, max_grad_norm=clip)
    fused = [model.parameter(name) for name in FUSED]
    model.hf.zero_grad()
    loss = mean_loss(model.hf, labelled(items))
    gradients = [g[2] for g in torch.autograd.grad(loss, fused)]
    norm = torch.cat([g.flatten() for g in gradients]).norm()
    share = min(1.0, clip / float(norm + 1e-6)) if clip else 1.0
    leaves = [torch.nn.Parameter(p.detach()[2].clone()) for p in fused]
    for leaf, gradient in zip(leaves, gradients, strict=True):
        leaf.grad = gradient * share
    torch.optim.AdamW(leaves, lr=options.lr, weight_decay=options.weight_decay).step()
    train(model.hf, items, labelled, mean_loss, options, trainable=[f"{name}[2]" for name in FUSED])
    for leaf, parameter in zip(leaves, fused, strict=True):
        torch.testing.assert_close(parameter.detach()[2], leaf.detach(), rtol=1e-4, atol=1e-5)


def test_flags_and_gradients_are_as_before(moe: HookedModel, concept) -> None:
    trained(moe, concept, [f"{FUSED[0]}[1]"])
    assert all(p.requires_grad and p.grad is None and not p._backward_hooks for p in moe.hf.parameters())


@pytest.mark.parametrize(("name", "message"), [(f"{FUSED[0]}[4]", "no slice 4"), ("what[0]", "no parameter 'what'")])
def test_a_slice_that_is_not_there_is_refused(moe: HookedModel, concept, name: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        trained(moe, concept, [name])
    assert all(p.requires_grad for p in moe.hf.parameters())


def test_gradient_ascent_on_one_expert_changes_only_its_tensors_on_disk(tmp_path: Path) -> None:
    planted = plant("olmoe", 0)
    source = planted.save(tmp_path / "source")
    with Checkpoint(source).open() as model:
        before = {name: tensor.clone() for name, tensor in model.hf.state_dict().items()}
        edit = GradAscent(steps=3, lr=1e-3).fit(model, planted.concept, [Site.parse("L1.expert[2]")])
        assert isinstance(edit, WeightEdit) and set(edit.changes) == set(FUSED)
        assert moved(model, before) == {}
        with edit.on(model):
            assert moved(model, before) == {name: [2] for name in FUSED}
        edit.write(model, tmp_path / "edited")
    old, new = (load_file(folder / "model.safetensors") for folder in (source, tmp_path / "edited"))
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert changed == {f"model.layers.1.mlp.experts.2.{name}_proj.weight" for name in ("gate", "up", "down")}


def test_an_edit_of_slices_records_what_else_was_touched(moe: HookedModel) -> None:
    def clumsy() -> None:
        moe.parameter(FUSED[1]).data[[1, 2], 0, 0] += 1

    edit = fit_weights(moe, [f"{FUSED[1]}[2]"], clumsy, {})
    assert len(edit.changes[FUSED[1]].values) == 2  # honest: a slice was named, another moved as well
