"""A LoRA is merged exactly, and one that does not fit in every tensor is refused."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, OlmoeConfig, OlmoeForCausalLM

from workbench.checkpoint import Checkpoint, save_checkpoint
from workbench.demo.models import demo_tokenizer
from workbench.errors import BadInput
from workbench.opening import Opening

IDS = torch.arange(4, 16).view(2, 6)
COMMIT = "89abcdef0123456789abcdef0123456789abcdef"


def base_of(kind: str, folder: Path, **more: object) -> Path:
    """A tiny base with random weights."""
    tokenizer = demo_tokenizer()
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, **more}
    torch.manual_seed(0)
    if kind == "olmoe":
        config = OlmoeConfig(
            vocab_size=len(tokenizer), intermediate_size=16, num_experts=4, num_experts_per_tok=2, **sizes
        )
        OlmoeForCausalLM(config).save_pretrained(folder)
    else:
        LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), intermediate_size=64, **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def adapter_of(base: Path, folder: Path, **options: object) -> Path:
    """An adapter of a base with random weights, as PEFT writes it."""
    hf = AutoModelForCausalLM.from_pretrained(base)
    hf.name_or_path = "lab/base"
    made = get_peft_model(hf, LoraConfig(**{"r": 4, "task_type": "CAUSAL_LM", **options}))
    generator = torch.Generator().manual_seed(1)
    for name, tensor in made.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            tensor.data = 0.1 * torch.randn(tensor.shape, generator=generator)
    made.save_pretrained(folder, save_embedding_layers=False)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("adapters")
    base_of("llama", root / "base")
    adapter_of(root / "base", root / "lora", target_modules=["q_proj", "down_proj"])
    return root


def text(folders: Path, base: object = "base", adapter: object = "lora") -> str:
    return f"{folders / str(base)}+{folders / str(adapter)}"


VARIANTS = {
    "plain": {"target_modules": ["q_proj", "down_proj"]},
    "every linear": {"target_modules": "all-linear", "use_rslora": True, "lora_alpha": 3},
    "dora": {"target_modules": ["v_proj"], "use_dora": True},
    "whole head": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "embedding": {"target_modules": ["embed_tokens", "o_proj"]},
    "bias": {"target_modules": ["up_proj"], "lora_bias": True},
}


def same_as_peft(base: Path, adapter: Path) -> None:
    hf = AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager")
    keys, alone = list(hf.state_dict()), hf(IDS).logits
    theirs = PeftModel.from_pretrained(hf, adapter).eval()(IDS).logits
    assert (theirs - alone).abs().max() > 1e-3
    with Checkpoint(f"{base}+{adapter}").open() as model:
        assert list(model.hf.state_dict()) == keys
        assert all(parameter.requires_grad for parameter in model.hf.parameters())
        assert not any("peft" in type(module).__module__ for module in model.hf.modules())
        torch.testing.assert_close(model.hf(IDS).logits, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_merged_model_is_plain_and_answers_as_peft_does(folders, tmp_path, variant):
    options = VARIANTS[variant]
    base = base_of("llama", tmp_path / "base", mlp_bias=True) if variant == "bias" else folders / "base"
    same_as_peft(base, adapter_of(base, tmp_path / "adapter", **options))


def test_fused_experts_are_merged_through_target_parameters(tmp_path):
    base = base_of("olmoe", tmp_path / "base")
    targets = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    adapter = adapter_of(base, tmp_path / "adapter", target_modules=["q_proj"], target_parameters=targets)
    same_as_peft(base, adapter)


def test_the_digest_covers_the_adapter(folders, tmp_path):
    both = Checkpoint(text(folders))
    assert replace(both, name="other").digest == both.digest
    assert (both.name, both.folder, both.address) == ("base+lora", folders / "base", text(folders))
    assert both.digest != Checkpoint(folders / "base").digest
    assert (
        Checkpoint(text(folders, adapter=shutil.copytree(folders / "lora", tmp_path / "moved"))).digest == both.digest
    )
    tensors = load_file(tmp_path / "moved" / "adapter_model.safetensors")
    save_file({name: tensor + 1e-3 for name, tensor in tensors.items()}, tmp_path / "moved/adapter_model.safetensors")
    assert Checkpoint(text(folders, adapter=tmp_path / "moved")).digest != both.digest


def test_an_adapter_from_the_hub_keeps_its_commit(folders, tmp_path, monkeypatch):
    repo = tmp_path / "models--lab--lora"
    shutil.copytree(folders / "lora", repo / "snapshots" / COMMIT)
    (repo / "refs").mkdir()
    (repo / "refs" / "v1").write_text(COMMIT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    found = Checkpoint(f"{folders / 'base'}+lab/lora@v1", opening=Opening(offline=True))
    assert found.record["adapter_commit"] == COMMIT and found.record["commit"] is None
    assert found.digest == Checkpoint(text(folders)).digest
    assert Checkpoint(found.address).digest == found.digest


def test_folders_with_a_plus_in_their_names_are_told_apart(folders, tmp_path):
    base = shutil.copytree(folders / "base", tmp_path / "ba+se")
    adapter = shutil.copytree(folders / "lora", tmp_path / "lo+ra")
    found = Checkpoint(f"{base}+{adapter}")
    assert (found.folder, found.name) == (base, "ba+se+lo+ra")


def test_what_is_written_of_it_is_an_ordinary_checkpoint(folders, tmp_path):
    with Checkpoint(text(folders)).open() as model:
        written = save_checkpoint(model, tmp_path / "merged")
        with written.open() as again:
            assert torch.equal(again.hf(IDS).logits, model.hf(IDS).logits)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        assert written.shards[name] == Checkpoint(folders / "base").shards[name]
    assert not list((tmp_path / "merged").glob("adapter*"))


def test_a_bf16_base_stays_bf16(folders, tmp_path):
    base = shutil.copytree(folders / "base", tmp_path / "half")
    AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(base)
    with Checkpoint(text(folders, base=base)).open() as model:
        assert {p.dtype for p in model.hf.parameters()} == {torch.bfloat16}


# ---- what is refused


def changed(**values: object):
    """Change options in adapter_config.json."""

    def change(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


def retensored(how: object):
    def change(folder: Path) -> None:
        tensors = load_file(folder / "adapter_model.safetensors")
        how(tensors)
        save_file(tensors, folder / "adapter_model.safetensors")

    return change


def pickle_weights(folder: Path) -> None:
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()


def cut(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])


FIRST = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: (f / "adapter_config.json").unlink(), ["has no adapter_config.json", "no PEFT adapter"]),
        (lambda f: (f / "adapter_config.json").write_text("[]"), ["adapter_config.json", "holds a JSON list"]),
        (lambda f: (f / "adapter_model.safetensors").unlink(), ["has no adapter_model.safetensors"]),
        (pickle_weights, ["pickled weights (adapter_model.bin)", "--allow-pickle"]),
        (cut, ["adapter_model.safetensors is cut short or damaged"]),
        (changed(auto_map={"AutoModel": "x.Y"}), ["auto_map in adapter_config.json", "not executed"]),
        (changed(peft_type="IA3"), ["type 'IA3'", "only LORA"]),
        (changed(task_type="SEQ_CLS"), ["task SEQ_CLS", "only CAUSAL_LM"]),
        (changed(layer_replication=[[0, 1], [0, 2]]), ["repeats layers", "layer_replication"]),
        (changed(alora_invocation_tokens=[1]), ["alora_invocation_tokens", "cannot be merged"]),
        (changed(megatron_config={"a": 1}), ["megatron_config"]),
        (changed(target_modules=["c_attn"]), ["made for lab/base", "does not fit the base", "c_attn"]),
        (changed(target_modules=["q_proj"]), ["no place for 4 of the adapter's 8 tensors", "mlp.down_proj.lora_A"]),
        (changed(target_modules=["q_proj", "down_proj", "up_proj"]), ["lacks 4 tensors", "mlp.up_proj.lora_A"]),
        (changed(r=8), ["does not fit the base", "mismatch"]),
        (retensored(lambda t: t.update(stray=torch.zeros(2))), ["no place for 1", "first 'stray'"]),
        (retensored(lambda t: t.pop(FIRST)), ["lacks 1 tensors", "layers.0.self_attn.q_proj.lora_A.weight"]),
        (retensored(lambda t: t[FIRST].fill_(float("nan"))), ["NaN or infinite", "layers.0.self_attn.q_proj.weight"]),
    ],
)
def test_an_adapter_that_cannot_be_used(folders, tmp_path, change, words):
    adapter = shutil.copytree(folders / "lora", tmp_path / "adapter")
    change(adapter)
    with pytest.raises(BadInput) as refused:
        Checkpoint(text(folders, adapter=adapter)).open()
    assert "\n" not in str(refused.value)
    for word in words:
        assert word in str(refused.value)


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"hidden_size": 48}, "size mismatch for .*q_proj.lora_A"),
        ({"num_hidden_layers": 1}, "no place for 4 of the adapter's 8 tensors"),
        ({"num_hidden_layers": 3}, "lacks 4 tensors its config asks for"),
    ],
)
def test_an_adapter_made_for_another_base_names_both(folders, tmp_path, sizes, words):
    other = base_of("llama", tmp_path / "other", **sizes)
    with pytest.raises(BadInput, match=rf"made for lab/base\) does not fit the base '.*other'.*{words}"):
        Checkpoint(text(folders, base=other)).open()


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["lm_head"]},
        {"target_modules": ["embed_tokens"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    ],
)
def test_half_of_a_tied_embedding_cannot_be_merged(tmp_path, options):
    base = base_of("llama", tmp_path / "tied", tie_word_embeddings=True)
    adapter = adapter_of(base, tmp_path / "adapter", **options)
    with pytest.raises(BadInput, match="one tensor with the other embedding"):
        Checkpoint(f"{base}+{adapter}").open()


def test_a_pickled_adapter_is_read_when_allowed_and_runs_nothing(folders, tmp_path):
    adapter = shutil.copytree(folders / "lora", tmp_path / "adapter")
    pickle_weights(adapter)
    allowed = Opening(allow_pickle=True)
    with (
        Checkpoint(text(folders, adapter=adapter), opening=allowed).open() as ours,
        Checkpoint(text(folders)).open() as theirs,
    ):
        assert torch.equal(ours.hf(IDS).logits, theirs.hf(IDS).logits)

    class Payload:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "pwned"),))

    torch.save({FIRST: Payload()}, adapter / "adapter_model.bin")
    with pytest.raises(BadInput, match="holds more than tensors"):
        Checkpoint(text(folders, adapter=adapter), opening=allowed).open()
    assert not (tmp_path / "pwned").exists()


def test_models_and_adapters_are_not_taken_for_each_other(folders):
    with pytest.raises(BadInput, match=r"holds a PEFT adapter.*Write lab/base\+"):
        Checkpoint(folders / "lora")
    with pytest.raises(BadInput, match="a whole model: open it by itself"):
        Checkpoint(text(folders, adapter="base"))


def test_an_adapter_beside_whole_weights_is_not_added_in_silence(folders, tmp_path):
    folder = shutil.copytree(folders / "base", tmp_path / "mixed")
    shutil.copytree(folders / "lora", folder, dirs_exist_ok=True)
    with pytest.raises(BadInput, match="keep the adapter in a folder of its own"):
        Checkpoint(folder)
