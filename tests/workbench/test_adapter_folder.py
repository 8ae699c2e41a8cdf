"""A low-rank edit written in PEFT's format is the same model to PEFT, to the workbench and as an edit."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests import zoo
from workbench.adapter_folder import write_adapter
from workbench.checkpoint import Checkpoint
from workbench.edits import Change, WeightEdit
from workbench.errors import BadInput
from workbench.low_rank import linear_maps, stored_transposed
from workbench.low_rank_change import LowRank
from workbench.model import HookedModel
from workbench.tokens import pad

BATCH = pad([[0, 5, 6, 7, 8, 9], [0, 9, 3, 4, 5, 6]])
NAMES = [name for name in zoo.DENSE_CONFIGS | zoo.MOE_CONFIGS if name != "bitnet"]
"""BitNet's maps are no plain linear ones."""


@torch.no_grad()
def logits(model: HookedModel) -> torch.Tensor:
    return model.run(BATCH).logits


def edit_of(model: HookedModel, rank: int = 2, scale: float = 1.5) -> WeightEdit:
    generator = torch.Generator().manual_seed(0)
    changes = {}
    for path in linear_maps(model, range(model.n_layers)):
        shape, turned = model.parameter(f"{path}.weight").shape, stored_transposed(model, path)
        out, into = shape[::-1] if turned else shape
        up, down = torch.randn(out, rank, generator=generator), torch.randn(rank, into, generator=generator)
        changes[f"{path}.weight"] = LowRank(0.1 * up, 0.1 * down, scale, turned)
    return WeightEdit(model.identity, {"method": "by hand"}, changes=changes)


@pytest.mark.parametrize("name", NAMES)
def test_peft_and_the_workbench_open_the_edited_model(name: str, tmp_path: Path) -> None:
    base = zoo.save(name, tmp_path / "base")
    with Checkpoint(base).open(dtype="float32", check=False) as model:
        plain, edit = logits(model), edit_of(model)
        write_adapter(edit, model, tmp_path / "adapter")
        with edit.on(model):
            edited = logits(model)
    assert float((edited - plain).abs().max()) > 0.01
    with Checkpoint(f"{base}+{tmp_path / 'adapter'}").open(dtype="float32", check=False) as opened:
        torch.testing.assert_close(logits(opened), edited, rtol=1e-4, atol=1e-5)
    hf = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
    theirs = PeftModel.from_pretrained(hf, tmp_path / "adapter").eval()
    adapted = [module for module in theirs.modules() if hasattr(module, "lora_A")]
    assert len(adapted) == len(edit.changes)  # and nothing else, also where PEFT would add the experts
    with torch.no_grad():
        said = theirs(BATCH.ids, attention_mask=BATCH.mask.long()).logits
    torch.testing.assert_close(said, edited, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def model() -> HookedModel:
    return HookedModel(zoo.make("llama", dtype=torch.float32), zoo.tokenizer(), check=False)


def test_the_same_edit_gives_the_same_bytes(model: HookedModel, tmp_path: Path) -> None:
    one, two = (write_adapter(edit_of(model), model, tmp_path / str(i)) for i in range(2))
    assert [f.name for f in sorted(one.iterdir())] == ["adapter_config.json", "adapter_model.safetensors"]
    assert all((two / file.name).read_bytes() == file.read_bytes() for file in one.iterdir())
    config = json.loads((one / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (2, 3.0)


def changed(model: HookedModel, name: str, change: object) -> WeightEdit:
    edit = edit_of(model)
    return WeightEdit(edit.fitted_to, {}, changes={**edit.changes, name: change})


def test_what_an_adapter_cannot_be_is_refused_and_leaves_nothing(model: HookedModel, tmp_path: Path) -> None:
    name, norm = "model.layers.0.mlp.up_proj.weight", "model.norm.weight"
    own = edit_of(model)
    wide = LowRank(torch.ones(48, 5), torch.ones(5, 32), 1.5)
    other = HookedModel(zoo.make("gpt2", dtype=torch.float32), zoo.tokenizer(), check=False)
    for wrong, of, match in (
        (changed(model, norm, Change(torch.ones(32))), model, r"model\.norm\.weight, which is not low-rank"),
        (changed(model, name, wide), model, "different ranks or scales"),
        (WeightEdit(model.identity, {}, changes={}), model, "changes nothing"),
        (own, other, "fitted to model"),
    ):
        with pytest.raises(BadInput, match=match):
            write_adapter(wrong, of, tmp_path / "out")
        assert not list(tmp_path.iterdir())
    (tmp_path / "out").mkdir()
    with pytest.raises(BadInput, match="exists already"):
        write_adapter(own, model, tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="Cannot write the adapter"):
        write_adapter(own, model, tmp_path / "file" / "out")
