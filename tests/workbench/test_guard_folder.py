"""A guard on disk opens like a checkpoint, is served like a model, and leaves the base alone."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from workbench.checkpoint import Checkpoint
from workbench.edits import HookEdit, Operator
from workbench.errors import BadInput
from workbench.guard_folder import GUARD, WARNING, write_guard
from workbench.scoring import score
from workbench.serving import GuardedLM, load_guarded
from workbench.sites import Site
from workbench.speech import Speech
from workbench.tokens import pad
from workbench.triggers import Trigger

LAST = Site(2, "resid_post")
TEXT = "the of"


@pytest.fixture(scope="module")
def base(planted_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(planted_folder, tmp_path_factory.mktemp("guards") / "base"))


@pytest.fixture(scope="module")
def edit(base: Path, planted) -> HookEdit:
    """Answers the first forget fact with a text, and silences one layer for it."""
    with Checkpoint(base).open() as model:
        (fact,) = model.encode(planted.concept.forget.facts[:1])
        state = model.run(pad([fact.ids[: fact.answer_start]]), read=[LAST], logits=False).acts[LAST][0, -1]
        ids = model.tokenizer(TEXT, add_special_tokens=False)["input_ids"]
        return HookEdit(
            model.identity,
            {"method": "by hand"},
            operators={Site(1, "mlp_out"): Operator("scale", torch.tensor(0.5))},
            trigger=Trigger(LAST, "box", {"mean": state, "radius": torch.full_like(state, 1e-4)}),
            speech=Speech("abstain", {"text": torch.tensor(ids)}),
        )


@pytest.fixture(scope="module")
def folder(base: Path, edit: HookEdit) -> Path:
    return write_guard(edit, Checkpoint(base), base.parent / "guarded", "by hand")


def test_it_opens_as_its_base_with_the_guard_on(base, edit, folder, planted):
    facts = planted.concept.forget.facts
    with Checkpoint(base).open() as model, edit.on(model):
        expected, identity = score(model, facts), model.identity
    with Checkpoint(folder).open() as model:
        found = score(model, facts)
        assert model.identity == identity
        with model.bare():
            assert score(model, facts).greedy.all()
            assert model.identity == Checkpoint(base).digest
    assert torch.equal(found.logprob, expected.logprob)
    assert found.greedy.tolist() == [False] + [True] * (len(facts) - 1)


def test_its_self_check_is_of_the_model_below(folder):
    with Checkpoint(folder).open() as model:
        assert all(check.passed for check in model.check(full=True))
        assert model.guards


def test_no_weights_are_copied_and_the_words_are_plain(base, folder):
    assert sorted(p.name for p in folder.iterdir()) == ["edit.json", "edit.safetensors", "guard.json", "serve.py"]
    assert json.loads((folder / GUARD).read_text())["warning"] == WARNING
    assert Checkpoint(folder).digest != Checkpoint(base).digest
    assert Checkpoint(folder).name == "guarded"


def test_another_guard_has_another_digest(base, edit, folder, tmp_path):
    other = HookEdit(edit.fitted_to, {}, operators=edit.operators)
    assert Checkpoint(write_guard(other, Checkpoint(base), tmp_path / "g", "x")).digest != Checkpoint(folder).digest


def test_base_and_guard_can_be_moved_together(base, edit, planted, tmp_path):
    write_guard(edit, Checkpoint(base), base.parent / "moving", "by hand")
    shutil.copytree(base, tmp_path / "there" / "base")
    shutil.move(base.parent / "moving", tmp_path / "there" / "moving")
    shutil.rmtree(base.parent / "elsewhere", ignore_errors=True)
    with Checkpoint(tmp_path / "there" / "moving").open() as model:
        assert model.folder == tmp_path / "there" / "base"
        assert not score(model, planted.concept.forget.facts[:1]).greedy.any()


def test_a_changed_base_is_refused(base, edit, tmp_path):
    copy = Path(shutil.copytree(base, tmp_path / "base"))
    guard = write_guard(edit, Checkpoint(copy), tmp_path / "guard", "by hand")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))
    with pytest.raises(BadInput, match="was made for a model"):
        Checkpoint(guard).open()


@pytest.mark.parametrize("damage", ["missing", "garbage", "no base"])
def test_a_damaged_guard_says_so(folder, tmp_path, damage):
    copy = Path(shutil.copytree(folder, tmp_path / "guard"))
    if damage == "missing":
        (copy / "edit.safetensors").unlink()
    elif damage == "garbage":
        (copy / GUARD).write_text("{")
    else:
        (copy / GUARD).write_text(json.dumps({"base": "/nowhere", "base_digest": "", "method": ""}))
    with pytest.raises(BadInput, match="lacks edit.safetensors|damaged|nowhere"):
        Checkpoint(copy)


def test_an_edit_of_another_model_is_not_written(base, edit, tmp_path):
    other = HookEdit("f" * 64, {}, operators=edit.operators)
    with pytest.raises(BadInput, match="was fitted to"):
        write_guard(other, Checkpoint(base), tmp_path / "g", "x")
    assert not (tmp_path / "g").exists()


class TestServing:
    def test_generate_says_the_text_to_the_prompt_it_is_for_and_answers_the_others(self, folder, planted):
        model, tokenizer = load_guarded(folder)
        facts = planted.concept.forget.facts[:2]
        said = [
            tokenizer.decode(
                model.generate(**tokenizer(f.prompt, return_tensors="pt"), max_new_tokens=4)[0],
                skip_special_tokens=True,
            )
            for f in facts
        ]
        assert said[0].endswith(TEXT)
        assert said[1].endswith(facts[1].answer)

    def test_a_left_padded_batch_says_the_same_as_one_by_one(self, folder, planted):
        model, tokenizer = load_guarded(folder)
        tokenizer.padding_side = "left"
        prompts = [f.prompt for f in planted.concept.forget.facts[:2]] + [planted.concept.far.facts[0].prompt + " the"]
        batch = tokenizer(prompts, return_tensors="pt", padding=True)
        together = model.generate(**batch, max_new_tokens=3)[:, batch["input_ids"].shape[1] :]
        for row, prompt in enumerate(prompts):
            given = tokenizer(prompt, return_tensors="pt")
            alone = model.generate(**given, max_new_tokens=3)[0, given["input_ids"].shape[1] :]
            assert together[row, : len(alone)].tolist() == alone.tolist()

    def test_without_a_guard_it_generates_what_the_model_itself_does(self, base, planted):
        served, tokenizer = load_guarded(base)
        given = tokenizer(planted.concept.near.facts[0].prompt, return_tensors="pt")
        plain = served.hooked.hf.generate(**given, max_new_tokens=5)
        assert isinstance(served, GuardedLM)
        assert torch.equal(served.generate(**given, max_new_tokens=5), plain)

    def test_the_script_beside_a_guard_runs(self, folder, planted):
        prompt = planted.concept.forget.facts[0].prompt
        done = subprocess.run(
            [sys.executable, folder / "serve.py", prompt], capture_output=True, text=True, timeout=300, check=True
        )
        assert done.stdout.strip().splitlines()[-1] == TEXT
