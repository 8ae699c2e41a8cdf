"""What is written is exactly the edit, and the receipt says what lies on disk; both recomputed here from the files."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import workbench.edited_folder as edited_folder
from tests import zoo
from workbench.checkpoint import Checkpoint
from workbench.demo.planted import plant
from workbench.edits import Change, HookEdit, WeightEdit, fit_weights, load_edit
from workbench.errors import BadInput, RunError
from workbench.model import HookedModel
from workbench.operators import Operator
from workbench.receipts import bits, on_disk
from workbench.sites import Site

DOWN = "model.layers.1.mlp.down_proj.weight"
DENSE = "model.layers.0.self_attn.q_proj.weight"


def opened(folder: Path, **more) -> HookedModel:
    """As `Checkpoint.open`, without its checks."""
    hf = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", **more)
    return HookedModel(hf, zoo.tokenizer(), folder=folder, check=False)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: t for file in sorted(folder.glob("*.safetensors")) for name, t in load_file(file).items()}


def shards(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.glob("*.safetensors*")}


def changed(old: dict[str, torch.Tensor], new: dict[str, torch.Tensor]) -> set[str]:
    assert {n: (t.shape, t.dtype) for n, t in old.items()} == {n: (t.shape, t.dtype) for n, t in new.items()}
    return {name for name in old if not torch.equal(bits(old[name]), bits(new[name]))}


def bump(model: HookedModel, name: str, where) -> WeightEdit:
    def change() -> None:
        with torch.no_grad():
            model.parameter(name)[where] += 1

    return fit_weights(model, [name], change, {"method": "test"})


def expected_row(name: str, disk: str, expert: int | None, old: torch.Tensor, new: torch.Tensor) -> dict:
    """A row by other means: numpy, and the bytes of the files."""
    a, b = ((t if expert is None or t.ndim < 3 else t[expert]).float().numpy().astype("f8") for t in (old, new))
    differs = a != b
    rows, columns = differs.any(1).nonzero()[0].tolist(), differs.any(0).nonzero()[0].tolist()
    norm = float(((b - a) ** 2).sum() ** 0.5)
    return {
        "tensor": name,
        "on_disk": disk,
        "expert": expert,
        "shape": list(a.shape),
        "entries_changed": int(differs.sum()),
        "rows_changed": len(rows),
        "rows": rows if len(rows) <= 64 else None,
        "columns_changed": len(columns),
        "columns": columns if len(columns) <= 64 else None,
        "norm_of_change": pytest.approx(norm, rel=1e-6),
        "relative": pytest.approx(norm / float((a**2).sum() ** 0.5), rel=1e-6),
        "sha256_before": hashlib.sha256(old.view(torch.uint8).numpy().tobytes()).hexdigest(),
        "sha256_after": hashlib.sha256(new.view(torch.uint8).numpy().tobytes()).hexdigest(),
    }


EXPERTS = {
    "olmoe": ("model.layers.1.mlp.experts", "model.layers.1.mlp.experts.3.down_proj.weight", 3),
    "mixtral": ("model.layers.1.mlp.experts", "model.layers.1.block_sparse_moe.experts.3.w2.weight", 3),
    "gpt_oss": ("model.layers.1.mlp.experts", "model.layers.1.mlp.experts.down_proj", 3),
    "granitemoe": (
        "model.layers.1.block_sparse_moe.experts",
        "model.layers.1.block_sparse_moe.output_linear.weight",
        3,
    ),
}


@pytest.mark.parametrize("arch", EXPERTS)
def test_an_edit_of_one_expert_changes_that_experts_tensor_and_the_receipt_is_true(arch: str, tmp_path: Path) -> None:
    source = zoo.save(arch, tmp_path / "source")
    name, disk, expert = f"{EXPERTS[arch][0]}.down_proj", *EXPERTS[arch][1:]
    model = opened(source)
    edit = bump(model, name, (expert, slice(2, 5), 7))
    edit.write(model, tmp_path / "out")
    old, new = tensors(source), tensors(tmp_path / "out")
    assert changed(old, new) == {disk}
    receipt = json.loads((tmp_path / "out" / "edit_receipt.json").read_text())
    assert receipt["rows"] == edit.receipt(model) == [expected_row(name, disk, expert, old[disk], new[disk])]
    assert receipt["rows"][0]["rows"] == [2, 3, 4] and receipt["rows"][0]["columns"] == [7]
    said = {key: receipt[key] for key in ("fitted_to", "made_by", "edit_digest")}
    assert said == {"fitted_to": model.digest, "made_by": {"method": "test"}, "edit_digest": edit.digest}


def test_experts_that_are_stored_fused_have_a_row_each(tmp_path: Path) -> None:
    source = zoo.save("gpt_oss", tmp_path / "source")
    model = opened(source)
    name = "model.layers.1.mlp.experts.gate_up_proj"
    edit = bump(model, name, ([0, 3], 1))
    edit.write(model, tmp_path / "out")
    old, new = tensors(source)[name], tensors(tmp_path / "out")[name]
    assert edit.receipt(model) == [expected_row(name, name, expert, old, new) for expert in (0, 3)]


def test_gate_and_up_of_an_expert_are_told_apart(tmp_path: Path) -> None:
    source = zoo.save("mixtral", tmp_path / "source")
    model = opened(source)
    edit = bump(model, "model.layers.0.mlp.experts.gate_up_proj", (2, 0))  # row 0 is the gate's: w1
    edit.write(model, tmp_path / "out")
    assert changed(tensors(source), tensors(tmp_path / "out")) == {
        "model.layers.0.block_sparse_moe.experts.2.w1.weight"
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shards_without_an_edited_tensor_are_copied_byte_for_byte(tmp_path: Path, dtype: torch.dtype) -> None:
    source = zoo.save("llama", tmp_path / "source", dtype=dtype, max_shard_size="20KB")
    assert len(list(source.glob("*.safetensors"))) > 3
    (source / "notes.json").write_text("{}")
    (source / "edit_receipt.json").write_text("{}")
    (source / "stray.safetensors").write_bytes(b"no weights of this model")
    index = json.loads((source / "model.safetensors.index.json").read_text())["weight_map"]
    edit = bump(opened(source, dtype="auto"), DOWN, (slice(None), [3, 7]))
    edit = WeightEdit(Checkpoint(source).digest, edit.made_by, changes=edit.changes)
    edit.write(Checkpoint(source), tmp_path / "out")
    before, after = shards(source), shards(tmp_path / "out")
    assert before.pop("stray.safetensors") and before.keys() == after.keys()
    assert {file for file in before if before[file] != after[file]} == {index[DOWN]}
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (source / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    assert not (tmp_path / "out" / "notes.json").exists()  # what was said of the old model is not true of this one
    assert json.loads((tmp_path / "out" / "edit_receipt.json").read_text())["rows"][0]["columns"] == [3, 7]
    with safe_open(source / index[DOWN], "pt") as a, safe_open(tmp_path / "out" / index[DOWN], "pt") as b:
        assert a.metadata() == b.metadata()


def test_the_written_checkpoint_is_the_edited_model(tmp_path: Path) -> None:
    source = zoo.save("olmoe", tmp_path / "source")
    model = opened(source)
    edit = bump(model, "model.layers.1.mlp.experts.down_proj", 2)
    edit.write(model, tmp_path / "out")
    with edit.on(model):
        for name, tensor in opened(tmp_path / "out").hf.state_dict().items():
            assert torch.equal(tensor, model.hf.state_dict()[name])


@pytest.mark.parametrize("both", [False, True])
def test_tied_embeddings_are_written_under_every_name_they_are_stored_by(tmp_path: Path, both: bool) -> None:
    source = tmp_path / "source"
    hf = zoo.make("llama")
    hf.config.tie_word_embeddings = True
    hf.tie_weights()
    hf.save_pretrained(source)
    zoo.tokenizer().save_pretrained(source)
    if both:
        from safetensors.torch import save_file

        stored = load_file(source / "model.safetensors")
        stored["lm_head.weight"] = stored["model.embed_tokens.weight"].clone()
        save_file(stored, source / "model.safetensors", {"format": "pt"})
    model = opened(source)
    assert model.hf.lm_head.weight is model.hf.model.embed_tokens.weight
    both_names = {
        "lm_head.weight": Change(torch.ones(2), torch.tensor([5, 6])),
        "model.embed_tokens.weight": Change(torch.full((1,), 2.0), torch.tensor([7])),
    }
    edit = WeightEdit(model.digest, {}, changes=both_names)
    edit.write(model, tmp_path / "out")
    assert [row["entries_changed"] for row in edit.receipt(model)] == [3] * (2 if both else 1)
    names = {"model.embed_tokens.weight"} | ({"lm_head.weight"} if both else set())
    assert changed(tensors(source), tensors(tmp_path / "out")) == names
    assert {row["on_disk"] for row in edit.receipt(model)} == names
    again = opened(tmp_path / "out").hf
    assert again.lm_head.weight is again.model.embed_tokens.weight
    assert again.lm_head.weight[0, 5:8].tolist() == [1, 1, 2]


def test_a_model_in_memory_and_one_that_is_not_what_its_folder_holds_are_written_as_they_are(tmp_path: Path) -> None:
    planted = plant("olmoe", 0)
    source = planted.save(tmp_path / "base")
    other = "model.layers.0.self_attn.q_proj.weight"
    planted.model.get_parameter(other).data += 1  # as an adapter would
    for folder in (None, source):
        model = HookedModel(planted.model, planted.tokenizer, folder=folder, check=False)
        edit = bump(model, "model.layers.1.mlp.experts.down_proj", (1, 0, 0))
        out = tmp_path / f"out-{folder is None}"
        edit.write(model, out)
        disk = "model.layers.1.mlp.experts.1.down_proj.weight"
        assert changed(tensors(source), tensors(out)) == {other, disk}
        assert torch.equal(tensors(out)[other], planted.model.get_parameter(other))
        assert json.loads((out / "edit_receipt.json").read_text())["rows"] == edit.receipt(model)


def test_an_edit_fitted_to_a_base_with_an_adapter_is_written_with_the_adapter_in_it(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base = zoo.save("llama", tmp_path / "base")
    made = peft.get_peft_model(
        AutoModelForCausalLM.from_pretrained(base),
        peft.LoraConfig(r=2, task_type="CAUSAL_LM", target_modules=["q_proj"], init_lora_weights=False),
    )
    made.save_pretrained(tmp_path / "lora")
    both = Checkpoint(f"{base}+{tmp_path / 'lora'}")
    with both.open() as model:
        edit = bump(model, DOWN, 0)
        merged = {name: tensor.clone() for name, tensor in model.hf.state_dict().items()}
    with pytest.raises(BadInput, match="fitted to"):
        edit.write(Checkpoint(base), tmp_path / "out")
    edit.write(both, tmp_path / "out")
    q_proj = {f"model.layers.{layer}.self_attn.q_proj.weight" for layer in range(zoo.LAYERS)}
    new = tensors(tmp_path / "out")
    assert changed(tensors(base), new) == {DOWN, *q_proj}
    assert changed({name: merged[name] for name in new}, new) == {DOWN}
    assert [row["on_disk"] for row in json.loads((tmp_path / "out" / "edit_receipt.json").read_text())["rows"]] == [
        DOWN
    ]


def test_an_edit_that_changes_nothing_writes_the_same_weights(tmp_path: Path) -> None:
    source = zoo.save("llama", tmp_path / "source")
    model = opened(source)
    WeightEdit(model.digest, {}, changes={}).write(model, tmp_path / "out")
    assert shards(source) == shards(tmp_path / "out")


def test_a_model_open_in_another_dtype_is_not_written(tmp_path: Path) -> None:
    source = zoo.save("llama", tmp_path / "source", dtype=torch.bfloat16)
    model = opened(source, dtype=torch.float32)
    with pytest.raises(BadInput, match=r"stored as torch.bfloat16 and open as torch.float32"):
        bump(model, DOWN, 0).write(model, tmp_path / "out")
    assert [file.name for file in tmp_path.iterdir()] == ["source"]


def test_a_model_that_wears_another_edit_is_not_written(tmp_path: Path) -> None:
    source = zoo.save("llama", tmp_path / "source")
    model = opened(source)
    guard = HookEdit("", {}, operators={Site(1, "resid_post"): Operator("scale", torch.tensor(0.5))})
    with guard.on(model):
        edit = bump(model, DOWN, 0)
        with pytest.raises(BadInput, match="wears another edit"):
            edit.write(model, tmp_path / "out")
    with pytest.raises(BadInput, match="fitted to"):
        edit.write(model, tmp_path / "out")
    with pytest.raises(BadInput, match="fitted to"):
        edit.receipt(model)
    assert not (tmp_path / "out").exists()


DAMAGES = {
    "another tensor changed too": ("model.norm.weight", 0, "wrong in 'model.norm.weight'"),
    "the edited tensor holds something else": (DOWN, 4, "does not fit what was written in 'model.layers.1"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_what_is_not_exactly_the_edit_is_removed(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, byte, message = DAMAGES[case]
    source = zoo.save("llama", tmp_path / "source")
    model = opened(source)
    put = edited_folder._put

    def slip(edit, model, source, building):
        rows = put(edit, model, source, building)
        (file,) = building.glob("*.safetensors")
        start, _ = edited_folder._places(file)[name]
        with file.open("r+b") as stream:
            stream.seek(start + byte)
            stream.write(b"\x01")
        return rows

    monkeypatch.setattr(edited_folder, "_put", slip)
    with pytest.raises(RunError, match=message):
        bump(model, DOWN, 0).write(model, tmp_path / "out")
    assert [file.name for file in tmp_path.iterdir()] == ["source"]


def test_a_change_that_did_not_reach_the_disk_or_a_lost_tensor_is_noticed(tmp_path: Path) -> None:
    source = zoo.save("llama", tmp_path / "source")
    model = opened(source)
    edit = bump(model, DOWN, 0)
    rows = edit.receipt(model)
    shutil.copytree(source, tmp_path / "same")
    with pytest.raises(RunError, match=f"wrong in '{DOWN}'"):
        edited_folder.require_only(source, tmp_path / "same", rows)
    edited_folder.require_only(source, tmp_path / "same", [])
    from safetensors.torch import save_file

    stored = load_file(source / "model.safetensors")
    save_file({n: t for n, t in stored.items() if n != DOWN}, tmp_path / "same" / "model.safetensors")
    with pytest.raises(RunError, match="other tensors"):
        edited_folder.require_only(source, tmp_path / "same", [])
    stored[DOWN] = stored[DOWN].bfloat16()
    save_file(stored, tmp_path / "same" / "model.safetensors")
    with pytest.raises(RunError, match=f"wrong in '{DOWN}'"):
        edited_folder.require_only(source, tmp_path / "same", rows)


def test_a_vector_a_nan_and_a_zero_norm_have_honest_rows(tmp_path: Path) -> None:
    planted = plant("llama", 0)
    planted.model.get_parameter(DOWN).data.zero_()
    planted.model.get_parameter("model.norm.weight").data[1] = float("nan")
    model = HookedModel(planted.model, planted.tokenizer, check=False)
    (vector,) = bump(model, "model.norm.weight", [0, 2]).receipt(model)
    assert (vector["rows"], vector["columns"], vector["columns_changed"]) == ([0, 2], None, None)
    assert vector["norm_of_change"] is None and vector["relative"] is None and vector["entries_changed"] == 2
    (zero,) = bump(model, DOWN, (0, 0)).receipt(model)
    assert zero["norm_of_change"] == 1 and zero["relative"] is None
    (many,) = bump(model, DOWN, (slice(0, 65), 0)).receipt(model)
    assert (many["rows"], many["rows_changed"], many["columns"]) == (None, 65, [0])


def test_a_parameter_that_is_stored_fused_with_others_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_):
        raise RuntimeError("needs q, k and v")

    monkeypatch.setattr("transformers.core_model_loading.revert_weight_conversion", fails)
    with pytest.raises(BadInput, match="stored fused with other parameters"):
        on_disk(plant("llama", 0).model, DOWN, torch.zeros(1))


def test_rows_come_in_the_models_order_also_of_an_edit_that_was_stored(tmp_path: Path) -> None:
    """A stored edit hands its changes over in another order than it was given them."""
    found = plant("olmoe", 0)
    model = HookedModel(found.model, found.tokenizer, check=False)
    names = ["model.layers.1.mlp.gate.weight", "lm_head.weight", "model.layers.1.mlp.experts.down_proj", DENSE]

    def change() -> None:
        with torch.no_grad():
            for name in names:
                model.parameter(name)[0] += 1

    edit = fit_weights(model, names, change, {"method": "test"})
    edit.save(tmp_path / "edit")
    rows = [row["tensor"] for row in edit.receipt(model)]
    assert rows == [row["tensor"] for row in load_edit(tmp_path / "edit").receipt(model)]
    order = [model.parameter_names().index(name) for name in dict.fromkeys(row.partition("[")[0] for row in rows)]
    assert len(order) == len(names) and order == sorted(order)
