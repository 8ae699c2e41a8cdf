"""Every checkpoint that cannot be opened: exit 2, one message, nothing executed, nothing written."""

import inspect
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertLMHeadModel,
    Gemma3ForConditionalGeneration,
    LlavaForConditionalGeneration,
    T5Config,
)

from workbench.cli import VERBS
from workbench.cli.options import OPENING
from workbench.opening import Opening

OPENERS = ("look", "audit", "unlearn", "doctor")
"""Verbs that open a model, at least."""


def config(**values: object):
    """Change config.json; None takes a key away."""

    def change(folder: Path) -> None:
        path = folder / "config.json"
        merged = {**json.loads(path.read_text()), **values}
        path.write_text(json.dumps({key: value for key, value in merged.items() if value is not None}))

    return change


def tensors(how):
    """Change the weights."""

    def change(folder: Path) -> None:
        found = load_file(folder / "model.safetensors")
        how(found)
        save_file(found, folder / "model.safetensors", metadata={"format": "pt"})

    return change


def text(file: str, content: str):
    return lambda folder: (folder / file).write_text(content)


def cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def sharded(folder: Path) -> None:
    """Two shards in the index, one on disk."""
    found = load_file(folder / "model.safetensors")
    names = {name: f"model-0000{1 + (name == NORM)}-of-00002.safetensors" for name in found}
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))


def outside(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "elsewhere.safetensors")
    index = {"metadata": {}, "weight_map": {NORM: "../elsewhere.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


NORM, DOWN, EMBED = "model.norm.weight", "model.layers.1.mlp.down_proj.weight", "model.embed_tokens.weight"

BROKEN = {
    "no config": (lambda f: (f / "config.json").unlink(), ["has no config.json", "It holds: "]),
    "config is not JSON": (text("config.json", "{"), ["config.json", "is not valid JSON"]),
    "config is no object": (text("config.json", "[1]"), ["config.json", "holds a JSON list, not an object"]),
    "config has nonsense": (config(hidden_size="wide"), ["transformers cannot read config.json", "hidden_size"]),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), ["has no *.safetensors weights"]),
    "weights by another name": (
        lambda f: (f / "model.safetensors").rename(f / "weights.safetensors"),
        ["under the names transformers reads", "model.safetensors"],
    ),
    "distributed checkpoint": (
        text("shard-00000-model-00001-of-00001.safetensors", ""),
        ["distributed training checkpoint", "save_pretrained"],
    ),
    "missing shard": (sharded, ["lacks the shard 'model-00002-of-00002.safetensors'", "1 of 2"]),
    "shard outside": (outside, ["names no shards of this folder"]),
    "index without shards": (
        lambda f: (text("model.safetensors.index.json", "{}")(f), (f / "model.safetensors").unlink()),
        ["names no shards"],
    ),
    "truncated": (cut, ["Cannot load", "model.safetensors is cut short or damaged"]),
    "empty file": (text("model.safetensors", ""), ["model.safetensors is cut short or damaged"]),
    "other shape": (
        tensors(lambda t: t.update({DOWN: t[DOWN][:, :-3].contiguous()})),
        ["1 tensors of another shape", DOWN, "in the files", "by config.json"],
    ),
    "lacks a tensor": (tensors(lambda t: t.pop(DOWN)), ["lacks 1 tensors", DOWN]),
    "tensor too many": (
        tensors(lambda t: t.update({"model.layers.9.mlp.down_proj.weight": torch.zeros(2)})),
        ["1 tensors its config has no place for", "model.layers.9.mlp.down_proj.weight", "--allow-unused-tensors"],
    ),
    "NaN": (
        tensors(lambda t: t[DOWN][0, :3].fill_(float("nan"))),
        ["NaN or infinite", f"3 of 6144 entries of '{DOWN}'"],
    ),
    "Inf": (
        tensors(lambda t: (t[NORM][:2].fill_(float("inf")), t[DOWN][0, 0].fill_(float("-inf")))),
        ["NaN or infinite", "more in 1 other tensors"],
    ),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), ["has no tokenizer", "copy the base model's"]),
    "broken tokenizer": (text("tokenizer.json", "{}"), ["Cannot read the tokenizer", "Copy the base model's"]),
    "tokenizer too large": (
        lambda f: (
            config(vocab_size=100)(f),
            tensors(lambda t: t.update({n: t[n][:100].contiguous() for n in (EMBED, "lm_head.weight") if n in t}))(f),
        ),
        ["The tokenizer of", "tokens, its embedding only 100 rows"],
    ),
    "pickles": (pickled, ["Pickled weights", "--allow-pickle"]),
    "code in config": (config(auto_map={"AutoModelForCausalLM": "x.Y"}), ["auto_map in config.json", "not executed"]),
    "code in tokenizer": (
        text("tokenizer_config.json", '{"auto_map": {"AutoTokenizer": ["x.Y", null]}}'),
        ["auto_map in tokenizer_config.json", "--trust-remote-code"],
    ),
    "unknown model": (config(model_type="lama"), ["'lama', which transformers does not know", "Did you mean 'llama'?"]),
    "no model type": (config(model_type=None), ["model_type None, which transformers does not know"]),
    "classifier": (
        config(architectures=["LlamaForSequenceClassification"]),
        ["LlamaForSequenceClassification", "decoder-only language models", "that is LlamaForCausalLM"],
    ),
    "no architecture": (config(architectures=None), ["names the architecture None"]),
    "other class": (config(architectures=["MistralForCausalLM"]), ["MistralForCausalLM", "that is LlamaForCausalLM"]),
    "encoder": (
        config(model_type="bert", architectures=["BertForMaskedLM"]),
        ["BertForMaskedLM", "decoder-only language models"],
    ),
    "encoder as language model": (
        config(model_type="bert", architectures=["BertLMHeadModel"]),
        ["is an encoder (bert without is_decoder", "decoder-only"],
    ),
    "encoder-decoder": (
        config(model_type="t5", architectures=["T5ForConditionalGeneration"], is_encoder_decoder=True),
        ["is an encoder-decoder (t5)"],
    ),
    "encoder-decoder unsaid": (
        config(model_type="t5", architectures=["T5ForConditionalGeneration"]),
        ["T5ForConditionalGeneration", "'t5' has none"],
    ),
    "gemma 3": (
        config(model_type="gemma3", architectures=["Gemma3ForConditionalGeneration"], vision_config={"a": 1}),
        ["multimodal model (vision_config"],
    ),
    "llava": (
        config(model_type="llava", architectures=["LlavaForConditionalGeneration"], text_config={"a": 1}),
        ["multimodal model (text_config"],
    ),
    "sound": (config(audio_config={"a": 1}), ["multimodal model (audio_config"]),
    "weights elsewhere": (
        config(transformers_weights="other.safetensors"),
        ["transformers_weights", "remove that key"],
    ),
    "adapter beside": (text("adapter_config.json", '{"peft_type": "LORA"}'), ["holds a PEFT adapter"]),
}


@pytest.fixture
def refused(cli, planted_folder, concept_file, tmp_path, monkeypatch):
    """Look into a changed copy of a model: it must be refused, and nothing be written."""

    def files() -> list[Path]:
        return sorted(path for path in tmp_path.rglob("*") if path.is_file())

    def run(change, *more: object) -> str:
        folder = shutil.copytree(planted_folder, tmp_path / "broken")
        change(folder)
        before = files()
        said = cli("look", "broken", "--concept", concept_file, "--probe", "accuracy", *more)
        assert (said.code, said.out) == (2, "")
        assert files() == before
        return said.err

    return run


@pytest.mark.parametrize("case", BROKEN)
def test_a_checkpoint_that_cannot_be_opened(refused, case):
    change, words = BROKEN[case]
    message = refused(change)
    for word in words:
        assert word in message
    assert message.count("\n") <= 2, "one message"


@pytest.mark.parametrize(
    "case", ["encoder", "encoder as language model", "encoder-decoder", "encoder-decoder unsaid", "gemma 3", "llava"]
)
def test_other_kinds_of_models_are_refused_before_a_class_of_theirs_is_made(refused, case, monkeypatch):
    def made(*_: object, **__: object) -> None:
        pytest.fail("a class of a library was made")

    kinds = (BertForMaskedLM, BertLMHeadModel, Gemma3ForConditionalGeneration, LlavaForConditionalGeneration)
    for kind in (*kinds, BertConfig, T5Config):
        monkeypatch.setattr(kind, "__init__", made)
    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", made)
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", made)
    assert "decoder-only language models" in refused(BROKEN[case][0])


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("--dtype", "float31"), ["'dtype'", "'bfloat16'", "float31"]),
        (("--device-map", "{"), ["--device-map '{' is not JSON", "cuda:0"]),
        (("--device-map", "[1]"), ["must be auto, or a mapping"]),
        (("--device-map", '{"": "disk"}'), ["left on disk"]),
        (("--device-map", '{"nowhere": "cpu"}'), ["the module 'nowhere'"]),
        (("--max-memory", '{"cpu": "1GiB"}'), ["device_map=auto"]),
        (("--device-map", "auto", "--max-memory", '{"cpu": "20KB"}'), ["were left on disk", "raise max_memory"]),
    ],
)
def test_options_of_opening_that_cannot_be(refused, words, parts):
    message = refused(lambda folder: None, *words)
    for part in parts:
        assert part in message
    assert message.count("\n") <= 2, "one message"


@pytest.mark.parametrize(
    ("case", "option"),
    [("pickles", "--allow-pickle"), ("tensor too many", "--allow-unused-tensors")],
)
def test_what_is_allowed_in_words_is_opened(cli, planted_folder, concept_file, tmp_path, case, option):
    folder = shutil.copytree(planted_folder, tmp_path / "changed")
    BROKEN[case][0](folder)
    command = ("--concept", concept_file, "--probe", "accuracy", "--json")
    allowed = cli("look", "changed", *command, option)
    plain = cli("look", planted_folder, *command)
    assert allowed.code == plain.code == 0, allowed.err
    assert allowed.json["entries"] == plain.json["entries"]
    manifest = json.loads((tmp_path / allowed.json["run"] / "manifest.json").read_text())
    assert manifest["checkpoint"]["opening"][option[2:].replace("-", "_")] is True
    assert manifest["checkpoint"]["address"] == "changed"


def test_another_precision_is_another_question(cli, planted_folder, concept_file):
    command = ("look", planted_folder, "--concept", concept_file, "--probe", "accuracy", "--json")
    runs = [cli(*command, "--dtype", dtype).json["run_id"] for dtype in ("auto", "float64")]
    assert len(set(runs)) == 2


@pytest.mark.parametrize("verb", OPENERS)
def test_every_verb_that_opens_a_model_has_the_same_options(cli, verb):
    shown = cli(verb, "--help").out
    for name in Opening.model_fields:
        assert f"--{name.replace('_', '-')}" in shown


def test_the_options_of_the_command_line_are_those_of_the_opening():
    assert list(OPENING) == list(Opening.model_fields)
    assert {name: default for name, (_, default) in OPENING.items()} == Opening().model_dump()


def test_no_verb_opens_a_model_without_them():
    from importlib import import_module

    for verb, place in VERBS.items():
        module, _, function = place.partition(":")
        found = import_module(f"workbench.cli.{module}")
        told = "opening" in inspect.signature(inspect.unwrap(getattr(found, function))).parameters
        opens = verb in OPENERS or "checkpoint_at(" in inspect.getsource(found)
        assert told or not opens, verb


def test_base_and_adapter_are_audited_as_one_checkpoint(cli, planted_folder, concept_file, fast, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    made = get_peft_model(
        AutoModelForCausalLM.from_pretrained(planted_folder), LoraConfig(r=2, target_modules=["down_proj"])
    )
    made.save_pretrained(tmp_path / "lora")
    both = f"{planted_folder}+{tmp_path / 'lora'}"
    said = cli("audit", both, "--base", planted_folder, "--concept", concept_file, *fast, "--json")
    assert said.code == 0, said.err
    run = tmp_path / said.json["run"]
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["checkpoints"]["checkpoint"]["address"] == both
    assert "adapter/adapter_model.safetensors" in manifest["inputs"]["checkpoint"]
    assert json.loads((run / "report.json").read_text())["roles"]["checkpoint"]["path"] == both
