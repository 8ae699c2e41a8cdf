"""What a training cannot do, told by the command: one message, nothing on stdout, and no half of a result left."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from interventions.gradient.given import _losses as token_losses
from tests.zoo import tokenizer
from workbench.cli import unlearn


@pytest.fixture
def npo(cli, planted_folder, concept_file):
    """Unlearn by a method, with other options, concept or model."""

    def run(*words: object, concept: object = concept_file, model: object = planted_folder, method: str = "npo"):
        return cli("unlearn", method, model, "--concept", concept, "--set", "lr=1e-3", "--out", "run", *words)

    return run


def refused(said, *parts: str) -> None:
    assert (said.code, said.out) == (2, ""), said.err
    message = said.err.splitlines()[-1]
    for part in parts:
        assert part in message
    assert not Path("run").exists()


def test_answers_beyond_the_context_are_counted_and_named(npo, changed_concept):
    def lengthen(concept) -> None:
        for row in (1, 4):
            concept["forget"][row]["answer"] = " ".join([concept["forget"][row]["answer"]] * 600)

    refused(npo(concept=changed_concept(lengthen)), "2 of 10 forget texts are longer", "512 tokens", "number 1 with")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("--set", "mask=wagle", "--set", "mask_share=1e-9"), ["selects nothing", "raise mask_share"]),
        (("--set", "mask=wagle", "--set", "mask_share=0"), ["'mask_share' of Npo", "greater than 0"]),
        (("--set", "optimizer=muon"), ["'adamw', 'adamw8bit' or 'sophia'", "got 'muon'"]),
        (("--set", "steps=5", "--set", "warmup_steps=5"), ["do not go together: warmup_steps (5) must be fewer"]),
        (("--set", "accumulate=3"), ["accumulate (3) must divide batch_size (16)"]),
        (("--dtype", "bfloat16"), ["stored as F32 and open as torch.bfloat16", "precision=bf16"]),
        (("--where", "L1.resid_post[3]"), ["L1.resid_post[3]"]),
    ],
    ids=str,
)
def test_options_that_cannot_be_are_refused_before_anything_is_trained(npo, words, parts):
    said = npo(*words)
    refused(said, *parts)
    assert "loss" not in said.err


def test_a_guard_does_not_mind_the_precision(cli, planted_folder, concept_file):
    words = ("--concept", concept_file, "--dtype", "bfloat16", "--out", "run", "--json")
    said = cli("unlearn", "neuron_adjust", planted_folder, *words)
    assert said.code == 0 and said.json["kind"] == "hooks", said.err


def test_hardware_that_has_no_bf16_is_named_before_masks_are_measured(npo, monkeypatch):
    monkeypatch.setattr("workbench.training_memory._computes_bf16", lambda kind: False)
    monkeypatch.setattr("interventions.gradient.descend.measured", pytest.fail)
    said = npo("--set", "precision=bf16", "--set", "mask=wagle")
    refused(said, "this cpu device does not compute in bfloat16", "precision='as_is'")


def test_a_device_that_is_not_there_is_named(npo):
    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    refused(npo("--device", "cuda", "--set", "precision=bf16"), "Cannot use the device 'cuda'", "This machine has: cpu")


def test_eight_bits_say_what_to_install(npo, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    refused(npo("--set", "optimizer=adamw8bit"), "pip install bitsandbytes", "optimizer='adamw'")


def test_another_models_tokenizer_is_refused(npo, planted_folder, tmp_path):
    other = shutil.copytree(planted_folder, tmp_path / "other")
    tokenizer().save_pretrained(other)
    refused(npo(model=other), "The tokenizer of", "has 296 tokens, its embedding only", "different models")


def test_a_run_is_not_taken_up_with_another_tokenizer(npo, planted_folder, tmp_path):
    """The words of the concept are the same; what became of them under the other tokenizer is not."""
    mine = shutil.copytree(planted_folder, tmp_path / "mine")
    assert npo("--set", "steps=1", model=mine).code == 0
    before = (Path("run") / "edit.safetensors").read_bytes()
    stored = json.loads((mine / "tokenizer.json").read_text())
    words = stored["model"]["vocab"]
    words[-1][0], words[-2][0] = words[-2][0], words[-1][0]
    (mine / "tokenizer.json").write_text(json.dumps(stored))
    said = npo("--set", "steps=1", model=mine)
    assert (said.code, said.out) == (2, "") and "holds another run" in said.err and "other checkpoint" in said.err
    assert (Path("run") / "edit.safetensors").read_bytes() == before


class Breaks:
    """The answers' loss, which is no number, or has no gradient that is one, from some call on."""

    def __init__(self, after: int, where: str) -> None:
        self.calls, self.after, self.where = 0, after, where

    def __call__(self, *given, **more):
        self.calls += 1
        found = token_losses(*given, **more)
        if self.calls <= self.after:
            return found
        if self.where == "loss":
            found.total.data += torch.nan
            return found
        found.total.register_hook(lambda gradient: gradient * torch.nan)
        return found


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_training_that_diverges_hands_over_the_last_good_checkpoint(npo, monkeypatch, where):
    """Forget and retain loss are two calls an update: the seventh update breaks, the last kept is the sixth."""
    monkeypatch.setattr("interventions.gradient.descend.KEEP_EVERY", 3)
    words = ("--set", "steps=9", "--seed", 3)
    monkeypatch.setattr("interventions.gradient.given._losses", Breaks(2 * 6, where))
    said = npo(*words)
    assert (said.code, said.out) == (1, ""), said.err
    message = said.err.splitlines()[-1]
    what = "The loss became nan" if where == "loss" else "The gradient is no longer finite"
    good = Path("run") / unlearn.LAST_GOOD / "checkpoint"
    for part in (f"{what} at step 7 of 9 (items ", "lower learning rate", "after step 6", str(good)):
        assert part in message
    assert json.loads(Path("run/manifest.json").read_text())["status"] == "error"
    assert not Path("run/checkpoint").exists() and not Path("run/edit.json").exists()
    assert not any(path.name.startswith(".") for path in Path("run").rglob("*"))


def test_the_last_good_checkpoint_is_that_of_a_training_that_ended_there(npo, monkeypatch):
    monkeypatch.setattr("interventions.gradient.descend.KEEP_EVERY", 3)
    assert npo("--set", "steps=6", "--out", "six").code == 0
    with monkeypatch.context() as patch:
        patch.setattr("interventions.gradient.given._losses", Breaks(2 * 7, "loss"))
        assert npo("--set", "steps=9").code == 1
    good = load_file(Path("run") / unlearn.LAST_GOOD / "checkpoint" / "model.safetensors")
    six = load_file(Path("six") / "checkpoint" / "model.safetensors")
    assert good.keys() == six.keys() and all(torch.equal(good[name], six[name]) for name in six)
    assert npo("--set", "steps=9").code == 0  # the cause is gone: it goes on, and the last good one with it
    assert not (Path("run") / unlearn.LAST_GOOD).exists()


def test_without_anything_kept_the_model_as_it_was_is_the_last_good_one(npo, monkeypatch):
    monkeypatch.setattr("interventions.gradient.given._losses", Breaks(2, "gradient"))
    said = npo("--set", "steps=9")
    assert said.code == 1 and "at step 2 of 9" in said.err and "is the model as it was" in said.err
    assert sorted(path.name for path in Path("run").rglob("*")) == ["events.jsonl", "manifest.json"]
