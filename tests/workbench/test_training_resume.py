"""A training that is killed again and again ends with the bits of one that was not."""

import gc
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from workbench.demo.planted import plant
from workbench.errors import BadInput, RunError
from workbench.experts import slice_name
from workbench.objectives import answer_nll, labelled
from workbench.tokens import encode
from workbench.training import StopRule, TrainingLog, TrainingOptions, discard, train

STEPS = 12
FUSED = "model.layers.1.mlp.experts.down_proj"
DOWN = "model.layers.1.mlp.down_proj.weight"
PLAIN = TrainingOptions(steps=STEPS, lr=3e-3, batch_size=3, schedule="cosine", warmup_steps=3, weight_decay=0.1, seed=5)
FILE = "training.safetensors"


@pytest.fixture(autouse=True)
def no_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trainer collects garbage at every start, which takes longer than these trainings."""
    monkeypatch.setattr(gc, "collect", lambda *_: 0)


class Killed(BaseException):
    """Nothing in the loop may catch this."""


class Killer:
    """Kills at the n-th call, wherever that is."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Killed


def never() -> None:
    """No kill."""


def trained(
    keep: Path | None,
    options: TrainingOptions = PLAIN,
    arch: str = "llama",
    kill: Callable[[], None] = never,
    keep_every: int = 2,
    **more: Any,
) -> tuple[dict[str, torch.Tensor], TrainingLog]:
    """One attempt on a fresh model with dropout, which may be killed in the loss, in the evaluation or after a step."""
    planted = plant(arch, 0)
    model = planted.model
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.1
    items = [encode(planted.tokenizer, fact) for fact in planted.concept.forget.facts]

    def evaluate(step: int) -> float:
        kill()
        return float(sum(p.detach().double().abs().sum() for p in model.parameters()))

    log = train(
        model,
        items,
        labelled,
        partial(killing_loss, kill),
        options,
        on_step=lambda step, loss: kill(),
        evaluate_at=range(0, STEPS, 3),
        evaluate=evaluate,
        keep=keep,
        keep_every=keep_every,
        **more,
    )
    return {name: p.detach().clone() for name, p in model.named_parameters()}, log


def killing_loss(kill: Callable[[], None], model: Any, batch: Any) -> torch.Tensor:
    kill()
    return answer_nll(model, batch)


def killed_often(keep: Path, kills: int, seed: int, **how: Any) -> tuple[dict[str, torch.Tensor], TrainingLog]:
    """The result of the attempt after so many that were killed at random moments."""
    rng = random.Random(seed)
    for _ in range(kills):
        with pytest.raises(Killed):
            trained(keep, kill=Killer(rng.randint(1, 8)), **how)
    return trained(keep, **how)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_ten_kills_make_no_difference(tmp_path: Path) -> None:
    weights, log = trained(None)
    again, log_again = killed_often(tmp_path / "kept", kills=10, seed=1)
    assert same(weights, again)
    assert log_again == log
    assert len(log.losses) == STEPS and [step for step, _ in log.evaluations] == [0, 3, 6, 9]


WAYS: dict[str, dict[str, Any]] = {
    "experts": {"arch": "olmoe", "trainable": [slice_name(FUSED, 2), slice_name(FUSED, 0), "lm_head.weight"]},
    "muon": {"options": PLAIN.model_copy(update={"optimizer": "muon", "muon_weight_decay": 0.1, "warmup_steps": 0})},
    "muon that follows": {"options": PLAIN.model_copy(update={"optimizer": "muon", "muon_follows_schedule": True})},
    "sophia": {"options": PLAIN.model_copy(update={"optimizer": "sophia", "sophia_every": 3})},
    "sophia published": {"options": PLAIN.model_copy(update={"optimizer": "sophia", "sophia_published": True})},
    "accumulated": {"options": PLAIN.model_copy(update={"accumulate": 3})},
    "best": {"stop": StopRule(mode="min", patience=2, best=True)},
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_training_goes_on_exactly(tmp_path: Path, way: str) -> None:
    weights, log = trained(None, **WAYS[way])
    again, log_again = killed_often(
        tmp_path, kills=2 if way in ("experts", "muon") else 1, seed=len(way), keep_every=1, **WAYS[way]
    )
    assert same(weights, again) and log_again == log


def test_masked_entries_go_on_exactly(tmp_path: Path) -> None:
    shape = plant().model.get_parameter(DOWN).shape
    masks = {DOWN: torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.3}
    weights, _ = trained(None, masks=masks)
    again, _ = killed_often(tmp_path, kills=2, seed=3, masks=masks)
    assert same(weights, again)
    with pytest.raises(BadInput, match="other masks"):
        trained(tmp_path, masks={DOWN: ~masks[DOWN]})


SCRIPT = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path[:0] = sys.argv[1:3]
import test_training_resume as here

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def after(count, then):
    seen = []
    def call(*words):
        seen.append(1)
        return die() if len(seen) == count else then(*words)
    return call

for how in ("step", "save"):
    child = os.fork()
    if not child:
        if how == "save":
            os.replace = after(4, os.replace)
        here.trained(Path(sys.argv[3]) / how, kill=after(15, here.never) if how == "step" else here.never)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.slow
def test_sigkill_makes_no_difference_not_even_during_a_save(tmp_path: Path) -> None:
    here = Path(__file__).parent
    words = [str(here.parents[1]), str(here), str(tmp_path)]
    done = subprocess.run([sys.executable, "-c", SCRIPT, *words], capture_output=True, text=True)
    assert done.stdout.split() == [str(-signal.SIGKILL.value)] * 2, done.stderr
    weights, log = trained(None)
    for how, files in (("step", 1), ("save", 2)):  # the half-written file lies beside the good one
        keep, calls = tmp_path / how, list[int]()
        names = [path.name for path in keep.iterdir()]
        assert FILE in names and len(names) == files
        again, log_again = trained(keep, kill=partial(calls.append, 1))
        assert same(weights, again) and log_again == log
        assert 0 < len(calls) < 2 * STEPS  # it did not start at the beginning
        assert [path.name for path in keep.iterdir()] == [FILE]


def test_a_finished_training_is_not_done_again(tmp_path: Path) -> None:
    weights, log = trained(tmp_path / "kept")
    again, log_again = trained(tmp_path / "kept", kill=Killer(1))
    assert same(weights, again) and log_again == log
    discard(tmp_path / "kept")
    assert not (tmp_path / "kept").exists()
    discard(tmp_path / "kept")
    with pytest.raises(Killed):
        trained(tmp_path / "kept", kill=Killer(1))


def test_discard_leaves_what_is_not_its_own(tmp_path: Path) -> None:
    trained(tmp_path, PLAIN.model_copy(update={"steps": 4}))
    (tmp_path / "notes.txt").write_text("mine")
    discard(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"options": PLAIN.model_copy(update={"lr": 1e-3})}, "options"),
        ({"trainable": [DOWN]}, "parameters that may move"),
        ({"stop": StopRule(best=True)}, "stop rule"),
        ({"question": {"alpha": 2}}, "question"),
        ({"arch": "olmoe"}, "model"),
    ],
)
def test_another_training_is_refused(tmp_path: Path, other: dict[str, Any], named: str) -> None:
    with pytest.raises(Killed):
        trained(tmp_path, kill=Killer(13))
    before = (tmp_path / FILE).read_bytes()
    with pytest.raises(BadInput, match=f"holds another training: other .*{named}"):
        trained(tmp_path, **other)
    assert (tmp_path / FILE).read_bytes() == before


def test_a_half_trained_model_and_other_items_and_losses_are_refused(tmp_path: Path) -> None:
    planted = plant()
    model = planted.model
    items = [encode(planted.tokenizer, fact) for fact in planted.concept.forget.facts]

    def again(rows: Any = items, loss: Any = answer_nll, hf: Any = None) -> None:
        train(hf or plant().model, rows, labelled, loss, TrainingOptions(steps=2), keep=tmp_path)

    again(hf=model)
    with pytest.raises(BadInput, match="other model "):
        again(hf=model)
    with pytest.raises(BadInput, match="other items"):
        again(items[::-1])
    with pytest.raises(BadInput, match="other loss"):
        again(loss=lambda hf, batch: -answer_nll(hf, batch))
    again()


@pytest.mark.parametrize("damage", ["half", "junk", "other"])
def test_a_damaged_file_is_refused(tmp_path: Path, damage: str) -> None:
    with pytest.raises(Killed):
        trained(tmp_path, kill=Killer(13))
    whole = (tmp_path / FILE).read_bytes()
    if damage == "other":
        save_file({"x": torch.zeros(2)}, tmp_path / FILE)
    else:
        (tmp_path / FILE).write_bytes(whole[: len(whole) // 2] if damage == "half" else b"junk")
    with pytest.raises(BadInput, match="remove it to begin again"):
        trained(tmp_path)


def test_only_what_moves_is_kept(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        trained(tmp_path, arch="olmoe", trainable=[slice_name(FUSED, 2)], kill=Killer(13))
    one_expert = plant("olmoe").model.get_parameter(FUSED)[2].nbytes
    assert 3 * one_expert < (tmp_path / FILE).stat().st_size < 4 * one_expert + 40_000  # itself and two running means


def test_a_write_that_fails_is_said_and_leaves_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Killed):
        trained(tmp_path, kill=Killer(13))
    before = (tmp_path / FILE).read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(BadInput, match="No space left"):
        trained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [FILE] and (tmp_path / FILE).read_bytes() == before


def test_a_folder_that_is_a_file_and_a_pace_of_zero_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(BadInput, match="is a file"):
        trained(tmp_path / "file")
    with pytest.raises(BadInput, match="keep_every is 0"):
        trained(tmp_path, keep_every=0)


def test_a_loss_that_is_no_number_keeps_the_last_good_state(tmp_path: Path) -> None:
    planted = plant()
    items, seen = [encode(planted.tokenizer, fact) for fact in planted.concept.forget.facts], list[int]()

    def loss(hf: Any, batch: Any) -> torch.Tensor:
        seen.append(1)
        return answer_nll(hf, batch) * (float("nan") if len(seen) == 6 else 1.0)

    def attempt() -> TrainingLog:
        return train(plant().model, items, labelled, loss, TrainingOptions(steps=8), keep=tmp_path, keep_every=2)

    with pytest.raises(RunError, match="step 6 of 8"):
        attempt()
    assert len(attempt().losses) == 8 and len(seen) == 6 + 4  # from step 4 on


def test_nothing_is_written_without_being_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    trained(None, PLAIN.model_copy(update={"steps": 4}))
    assert not list(tmp_path.iterdir())
