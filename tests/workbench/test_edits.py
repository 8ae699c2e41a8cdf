import json
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
from workbench.operators import Gate
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


def test_a_hook_edit_changes_what_is_read_and_leaves_the_weights(model: HookedModel, tmp_path: Path) -> None:
    site, batch, before = Site(1, "resid_post"), probe_batch(model), bits(model)
    plain = model.run(batch, read=[site]).acts[site]
    edit = HookEdit(model.identity, {"method": "test"}, operators={site: Operator("add", torch.ones(128))})
    edit.save(tmp_path / "guard")
    with load_edit(tmp_path / "guard").on(model):
        changed = model.run(batch, read=[site]).acts[site]
        assert model.identity != edit.fitted_to
    torch.testing.assert_close(changed, plain + 1)
    assert same(model, before)
    assert torch.equal(model.run(batch, read=[site]).acts[site], plain)


POSITIVE = Gate("linear", {"weight": torch.ones(1)})


@pytest.mark.parametrize(
    "operator",
    [
        Operator("scale", torch.tensor(0.0)),
        Operator("add", torch.tensor([2.0])),
        Operator("add", torch.tensor([2.0]), gate=POSITIVE),
    ],
)
def test_an_operator_at_a_neuron_acts_on_that_neuron_alone(model: HookedModel, operator: Operator) -> None:
    site, whole, batch = Site.parse("L1.mlp_act[3]"), Site(1, "mlp_act"), probe_batch(model)
    plain = model.run(batch, read=[whole]).acts[whole]
    with HookEdit("", {}, operators={site: operator}).on(model):
        changed = model.run(batch, read=[whole]).acts[whole]
    moved = (changed != plain).flatten(0, 1).any(0).nonzero()[:, 0]
    assert moved.tolist() == [3]
    expected = plain[..., 3] * 0 if operator.name == "scale" else plain[..., 3] + 2
    if operator.gate:
        expected = torch.where(plain[..., 3] > 0, expected, plain[..., 3])
    torch.testing.assert_close(changed[..., 3], expected)


def test_a_hook_edit_of_another_width_or_place_is_refused(model: HookedModel) -> None:
    narrow = Operator("add", torch.ones(64))
    beyond = Operator("add", torch.ones(1), torch.tensor([128]))
    for site, operator, message in (
        ("L1.resid_post", narrow, "width 128"),
        ("L1.resid_post", beyond, "no entry 128"),
        ("L1.resid_post[5]", narrow, "width 1,"),
        ("L1.mlp_act[3]", narrow, "width 1,"),
        ("L9.resid_post", narrow, "no site"),
    ):
        edit = HookEdit("", {}, operators={Site.parse(site): operator})
        with pytest.raises(BadInput, match=message), edit.on(model):
            pass
    assert model.identity == model.digest


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_bits_come_back_also_in_bf16_and_from_nan_and_negative_zero(dtype: torch.dtype) -> None:
    planted = plant("llama", 0)
    planted.model.to(dtype)
    planted.model.get_parameter(NAME).data[0, :3] = torch.tensor([float("nan"), -0.0, float("inf")])
    model = HookedModel(planted.model, planted.tokenizer, check=False)
    before = raw_bits(model)
    edit = zero_columns(model, [1])
    assert edit.changes[NAME].values.dtype == dtype
    positions = [row * 48 + 1 for row in range(128)]  # also the -0 became 0, and the NaN beside it did not change
    assert edit.changes[NAME].index.tolist() == positions
    with edit.on(model):
        assert model.parameter(NAME)[0, 0].isnan() and not model.parameter(NAME)[:, 1].any()
    assert raw_bits(model) == before


def raw_bits(model: HookedModel) -> dict[str, bytes]:
    return {name: t.contiguous().view(torch.uint8).numpy().tobytes() for name, t in model.hf.state_dict().items()}


def test_tied_embeddings_are_one_parameter_and_stay_tied(tied: HookedModel) -> None:
    before = bits(tied)
    edit = WeightEdit(tied.identity, {}, changes={"lm_head.weight": Change(torch.ones(4), torch.tensor([0, 1, 2, 3]))})
    with edit.on(tied):
        assert tied.parameter("model.embed_tokens.weight")[0, :4].tolist() == [1, 1, 1, 1]
    assert same(tied, before)
    assert tied.parameter("lm_head.weight") is tied.parameter("model.embed_tokens.weight")


@pytest.fixture
def tied() -> HookedModel:
    planted = plant("llama", 0)
    planted.model.config.tie_word_embeddings = True
    planted.model.tie_weights()
    assert planted.model.lm_head.weight is planted.model.model.embed_tokens.weight
    return HookedModel(planted.model, planted.tokenizer, check=False)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_edit_that_breaks_off_half_way_leaves_nothing(
    model: HookedModel, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    before, identity = bits(model), model.identity
    other = "model.layers.0.mlp.down_proj.weight"
    edit = WeightEdit(model.identity, {}, changes={name: Change(torch.zeros(128, 48)) for name in (NAME, other)})
    apply, seen = Change.apply, []

    def second_fails(self: Change, parameter: torch.Tensor) -> None:
        if seen:
            raise error
        apply(self, parameter)
        seen.append(float(parameter.abs().sum()))

    monkeypatch.setattr(Change, "apply", second_fails)
    with pytest.raises(error), edit.on(model):
        pass
    assert seen == [0.0]
    assert same(model, before) and model.identity == identity


def test_edits_nest_and_come_off_in_order(model: HookedModel) -> None:
    before = bits(model)
    first = zero_columns(model, [1])
    with first.on(model):
        between = bits(model)
        second = zero_columns(model, [1, 2])
        assert second.fitted_to != first.fitted_to
        with second.on(model):
            assert not model.parameter(NAME)[:, [1, 2]].any()
        assert same(model, between)
    assert same(model, before)
    assert [int(c) for c in (second.changes[NAME].index % 48).unique()] == [2]  # 1 was zero already
    with pytest.raises(BadInput, match="fitted to"), second.on(model):
        pass


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (Change(torch.ones(1, 48)), "does not fit"),  # would be broadcast
        (Change(torch.ones(2), torch.tensor([0, 128 * 48])), "does not fit"),
        (Change(torch.ones(2), torch.tensor([0, -1])), "does not fit"),
        (Change(torch.ones(1), torch.tensor([0, 1])), "does not fit"),
    ],
)
def test_a_change_of_another_shape_is_refused(model: HookedModel, change: Change, message: str) -> None:
    before = bits(model)
    with pytest.raises(BadInput, match=message), WeightEdit("", {}, changes={NAME: change}).on(model):
        pass
    with (
        pytest.raises(BadInput, match="no parameter 'what.weight'"),
        WeightEdit("", {}, changes={"what.weight": change}).on(model),
    ):
        pass
    assert same(model, before)


def test_hook_edits_of_the_first_version_are_still_read(model: HookedModel, tmp_path: Path) -> None:
    edit = HookEdit("", {}, operators={Site(1, "resid_post"): Operator("add", torch.ones(128))})
    numbers, words = edit.save(tmp_path / "old")
    assert json.loads(words.read_text())["words"] == {"operators": {"L1.resid_post": "add"}}
    assert list(load_file(numbers)) == ["L1.resid_post|tensor"]
