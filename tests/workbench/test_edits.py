import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from workbench.checkpoint import Checkpoint
from workbench.demo.planted import plant
from workbench.edits import Change, HookEdit, Operator, PromptEdit, WeightEdit, fit_weights, load_edit
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.model_check import probe_batch
from workbench.sites import Site

NAME = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture
def model() -> HookedModel:
    planted = plant("llama", 0)
    return HookedModel(planted.model, planted.tokenizer, check=False)


def bits(model: HookedModel) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.hf.state_dict().items()}


def same(model: HookedModel, before: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, before[name]) for name, value in model.hf.state_dict().items())


def zero_columns(model: HookedModel, columns: list[int]) -> WeightEdit:
    def change() -> None:
        with torch.no_grad():
            model.parameter(NAME)[:, columns] = 0

    return fit_weights(model, [NAME], change, {"method": "test"})


def test_fitting_and_wearing_leave_the_model_bit_for_bit_as_it_was(model: HookedModel) -> None:
    before, identity = bits(model), model.identity
    edit = zero_columns(model, [3, 7])
    assert same(model, before)
    with edit.on(model):
        assert not same(model, before)
        assert float(model.parameter(NAME)[:, [3, 7]].abs().sum()) == 0
        assert model.identity != identity
    assert same(model, before)
    assert model.identity == identity


def test_an_error_inside_restores_too(model: HookedModel) -> None:
    before = bits(model)
    edit = zero_columns(model, [1])
    with pytest.raises(RuntimeError), edit.on(model):
        model.parameter(NAME).data.normal_()  # even what the edit did not ask for
        raise RuntimeError
    assert same(model, before)

    def fail() -> None:
        model.parameter(NAME).data.zero_()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_weights(model, [NAME], fail, {})
    assert same(model, before)


def test_an_edit_refuses_another_model_and_the_same_model_in_other_clothes(model: HookedModel) -> None:
    edit = zero_columns(model, [3])
    other = plant("llama", 1)
    with (
        pytest.raises(BadInput, match="fitted to model"),
        edit.on(HookedModel(other.model, other.tokenizer, check=False)),
    ):
        pass
    with edit.on(model), pytest.raises(BadInput, match="fitted to model"), edit.on(model):
        pass


def test_few_changed_entries_are_stored_sparsely_many_whole(model: HookedModel) -> None:
    few, many = zero_columns(model, [3]).changes[NAME], zero_columns(model, list(range(40))).changes[NAME]
    assert few.index is not None and len(few.values) == model.d_model
    assert many.index is None and many.values.shape == model.parameter(NAME).shape


def test_an_edit_that_changes_nothing_holds_nothing(model: HookedModel) -> None:
    assert fit_weights(model, [NAME], lambda: None, {}).changes == {}


@pytest.mark.parametrize("columns", [[3], list(range(40))])
def test_saved_and_loaded_it_does_the_same(model: HookedModel, tmp_path: Path, columns: list[int]) -> None:
    edit = zero_columns(model, columns)
    edit.save(tmp_path / "my.edit")
    loaded = load_edit(tmp_path / "my.edit")
    assert loaded.digest == edit.digest
    with edit.on(model):
        expected = bits(model)
    with loaded.on(model):
        assert same(model, expected)


def test_a_tampered_edit_is_refused(model: HookedModel, tmp_path: Path) -> None:
    edit = zero_columns(model, [3])
    edit.save(tmp_path / "edit")
    other = WeightEdit(edit.fitted_to, edit.made_by, changes={NAME: Change(torch.ones(1), torch.tensor([0]))})
    other.save(tmp_path / "other")
    (tmp_path / "other.safetensors").replace(tmp_path / "edit.safetensors")
    with pytest.raises(BadInput, match="damaged"):
        load_edit(tmp_path / "edit")
    with pytest.raises(BadInput, match="Cannot read"):
        load_edit(tmp_path / "nothing")


def test_the_written_checkpoint_differs_in_exactly_the_edited_entries(planted_folder: Path, tmp_path: Path) -> None:
    planted_folder = Path(shutil.copytree(planted_folder, tmp_path / "source"))
    (planted_folder / "notes.json").write_text("{}")
    with Checkpoint(planted_folder).open() as model:
        edit = zero_columns(model, [3, 7])
        receipt = edit.receipt(model)
        written = edit.write(model, tmp_path / "edited")
        with edit.on(model):
            logits = model.run(probe_batch(model)).logits
    old, new = (load_file(folder / "model.safetensors") for folder in (planted_folder, tmp_path / "edited"))
    assert list(old) == list(new)
    changed = [name for name in old if not torch.equal(old[name], new[name])]
    assert changed == [NAME] == [row["tensor"] for row in receipt]
    assert (old[NAME] != new[NAME]).any(dim=0).nonzero()[:, 0].tolist() == [3, 7]
    assert receipt[0]["entries_changed"] == int((old[NAME] != new[NAME]).sum())
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (planted_folder / name).read_bytes() == (tmp_path / "edited" / name).read_bytes()
    assert not (tmp_path / "edited" / "notes.json").exists()  # what was said of the old model is not true of this one
    with written.open() as again:
        assert torch.equal(again.run(probe_batch(again)).logits, logits)


def test_writing_never_overwrites(planted_folder: Path, tmp_path: Path) -> None:
    with Checkpoint(planted_folder).open() as model:
        edit = zero_columns(model, [3])
        edit.write(model, tmp_path / "out")
        with pytest.raises(BadInput, match="exists already"):
            edit.write(model, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("operator", "expected"),
    [
        (
            Operator("project_out", torch.eye(128)[:2]),
            lambda x: torch.cat([torch.zeros_like(x[..., :2]), x[..., 2:]], -1),
        ),
        (Operator("add", torch.ones(128)), lambda x: x + 1),
        (
            Operator("scale", torch.tensor([0.0]), torch.tensor([5])),
            lambda x: torch.where(torch.arange(128) == 5, 0 * x, x),
        ),
        (Operator("clamp", torch.tensor(0.1)), lambda x: x.clamp(max=0.1)),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_hook_edits_do_what_they_say_and_leave_the_weights(
    model: HookedModel, tmp_path: Path, operator, expected
) -> None:
    site, batch, before = Site(1, "resid_post"), probe_batch(model), bits(model)
    plain = model.run(batch, read=[site]).acts[site]
    edit = HookEdit(model.identity, {"method": "test"}, operators={site: operator})
    edit.save(tmp_path / "guard")
    with load_edit(tmp_path / "guard").on(model):
        changed = model.run(batch, read=[site]).acts[site]
    torch.testing.assert_close(changed, expected(plain))
    assert not torch.equal(changed, plain)
    assert same(model, before)
    assert torch.equal(model.run(batch, read=[site]).acts[site], plain)


def test_a_prompt_edit_changes_what_the_model_is_shown(model: HookedModel) -> None:
    fact = plant("llama", 0).concept.forget.facts[0]
    plain = model.encode([fact])[0]
    with PromptEdit("", {}, template=f"{fact.prompt} {{prompt}}").on(model):
        shown = model.encode([fact])[0]
    assert len(shown.ids) == len(plain.ids) + plain.answer_start - 1
    assert shown.answer == plain.answer
    assert model.encode([fact])[0] == plain
    with pytest.raises(BadInput, match="exactly once"):
        PromptEdit("", {}, template="no slot")
