"""What saves memory changes no result, or says by how much; what is not there is refused; a bad batch is named."""

import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from workbench.demo.planted import Planted, plant
from workbench.errors import BadInput, RunError
from workbench.objectives import labelled
from workbench.tokens import encode
from workbench.training import TrainingLog, TrainingOptions, train

DOWN = "model.layers.1.mlp.down_proj.weight"
BASE = TrainingOptions(steps=4, lr=1e-2, batch_size=4, seed=2)


def row_mean(hf: Any, batch: Any) -> torch.Tensor:
    """A mean over items, so that the parts of an update weigh the same."""
    shifted = batch["labels"][:, 1:]
    logits = hf(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
    nll = torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), shifted, reduction="none")
    return nll.sum(1).mean()


def trained(
    options: TrainingOptions = BASE, planted: Planted | None = None, loss: Any = row_mean, **more: Any
) -> tuple[dict[str, torch.Tensor], TrainingLog]:
    planted = planted or plant()
    items = [encode(planted.tokenizer, fact) for fact in planted.concept.never_taught]
    log = train(planted.model, items, labelled, loss, options, **more)
    return {name: p.detach().clone() for name, p in planted.model.named_parameters()}, log


def furthest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.mark.parametrize("parts", [2, 4])
def test_an_accumulated_update_is_the_update_of_the_whole(parts: int) -> None:
    passes: list[int] = []

    def loss(hf: Any, batch: Any) -> torch.Tensor:
        passes.append(len(batch["input_ids"]))
        return row_mean(hf, batch)

    whole, log = trained()
    again, log_again = trained(BASE.model_copy(update={"accumulate": parts}), loss=loss)
    assert passes == [4 // parts] * 4 * parts
    assert len(log_again.losses) == 4 and log_again.losses == pytest.approx(log.losses, rel=1e-4)
    start, _ = trained(BASE.model_copy(update={"lr": 1e-30}))
    assert furthest(whole, again) < 0.05 * furthest(whole, start)


def test_gradient_checkpointing_gives_the_same_bits_and_leaves_no_trace() -> None:
    planted = plant()
    flags = [dict(vars(module)) for module in planted.model.modules()]
    passes: list[int] = []
    layer = planted.model.model.layers[1].mlp
    handle = layer.register_forward_pre_hook(lambda *_: passes.append(1))
    again, _ = trained(BASE.model_copy(update={"gradient_checkpointing": True}), planted)
    handle.remove()
    assert len(passes) == 2 * BASE.steps  # forward, and again on the way back
    whole, _ = trained()
    assert furthest(whole, again) == 0
    for module, before in zip(planted.model.modules(), flags, strict=True):
        assert vars(module).keys() == before.keys()
        assert vars(module).get("gradient_checkpointing") == before.get("gradient_checkpointing")
        assert not module._forward_hooks


def test_bf16_computes_in_bfloat16_and_keeps_the_parameters() -> None:
    planted, types_seen = plant(), set[torch.dtype]()
    handle = planted.model.model.layers[1].mlp.down_proj.register_forward_hook(
        lambda _module, _arguments, output: types_seen.add(output.dtype)
    )
    forward = planted.model.forward
    again, log = trained(BASE.model_copy(update={"precision": "bf16"}), planted)
    handle.remove()
    assert types_seen == {torch.bfloat16} and planted.model.forward == forward
    assert {p.dtype for p in again.values()} == {torch.float32}
    whole, log_whole = trained()
    assert furthest(whole, again) > 0
    assert log.losses == pytest.approx(log_whole.losses, rel=0.05)


def test_hardware_without_bf16_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workbench.training_memory._computes_bf16", lambda kind: False)
    with pytest.raises(BadInput, match="does not compute in bfloat16"):
        trained(BASE.model_copy(update={"precision": "bf16"}))
    trained()


def test_a_model_without_checkpointing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    planted = plant()
    monkeypatch.setattr(type(planted.model), "supports_gradient_checkpointing", False)
    with pytest.raises(BadInput, match="does not support gradient checkpointing"):
        trained(BASE.model_copy(update={"gradient_checkpointing": True}), planted)


EIGHT = BASE.model_copy(update={"optimizer": "adamw8bit"})


def test_eight_bit_adamw_is_refused_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(BadInput, match="pip install bitsandbytes"):
        trained(EIGHT)


class Rough(torch.optim.AdamW):
    """A stand-in for the package's: means are rounded, and a table is shared by the states of all parameters."""

    table = torch.linspace(-1, 1, 256)

    def step(self, closure: Any = None) -> None:
        super().step()
        for state in self.state.values():
            state["exp_avg"].copy_(state["exp_avg"].bfloat16())
            state["map"] = self.table


def stand_in(kind: Any) -> Any:
    return types.SimpleNamespace(optim=types.SimpleNamespace(AdamW8bit=kind))


def broken(*_: Any, **__: Any) -> Any:
    raise RuntimeError("no kernel for this device\nand a long story")


class Still(torch.optim.SGD):
    def step(self, closure: Any = None) -> None:
        pass


@pytest.mark.parametrize(
    ("kind", "says"),
    [(broken, r"does not work on cpu \(RuntimeError: no kernel for this device\)"), (Still, "moves nothing on cpu")],
)
def test_a_package_that_does_not_work_here_is_refused(monkeypatch: pytest.MonkeyPatch, kind: Any, says: str) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", stand_in(kind))
    with pytest.raises(BadInput, match=says):
        trained(EIGHT)


def test_eight_bit_adamw_is_the_packages_own_with_our_options(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, Any]] = []

    def adamw8bit(parameters: Any, **settings: Any) -> torch.optim.Optimizer:
        made.append(settings)
        return torch.optim.AdamW(parameters, **settings)

    monkeypatch.setitem(sys.modules, "bitsandbytes", stand_in(adamw8bit))
    again, _ = trained(EIGHT)
    assert made[1:] == [{"lr": 1e-2, "betas": (0.9, 0.999), "weight_decay": 0.0}]  # the first is the trial
    assert furthest(again, trained()[0]) == 0


@pytest.mark.parametrize("package", ["stand-in", "bitsandbytes"])
def test_eight_bit_adamw_comes_near_adamw_and_goes_on_to_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, package: str
) -> None:
    if package == "bitsandbytes":
        pytest.importorskip("bitsandbytes")
    else:
        monkeypatch.setitem(sys.modules, "bitsandbytes", stand_in(Rough))
    whole, losses = trained(EIGHT)
    plain, theirs = trained()
    assert furthest(whole, plain) > 0
    assert losses.losses == pytest.approx(theirs.losses, rel=0.05)

    def stop(step: int, _: float) -> None:
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(EIGHT, keep=tmp_path, keep_every=1, on_step=stop)
    again, resumed = trained(EIGHT, keep=tmp_path, keep_every=1)
    assert furthest(again, whole) == 0 and resumed == losses


def rates(options: TrainingOptions, monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float]]:
    """Learning rates that Muon and AdamW really step with."""
    seen: dict[str, list[float]] = {"muon": [], "adamw": []}
    for name, kind in (("muon", torch.optim.Muon), ("adamw", torch.optim.AdamW)):
        step = kind.step

        def noting(self: Any, *words: Any, _name: str = name, _step: Any = step, **more: Any) -> Any:
            seen[_name].append(self.param_groups[0]["lr"])
            return _step(self, *words, **more)

        monkeypatch.setattr(kind, "step", noting)
    trained(options)
    monkeypatch.undo()
    return list(zip(seen["muon"], seen["adamw"], strict=True))


def test_muon_follows_the_schedule_only_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    muon = TrainingOptions(steps=2, batch_size=4, lr=1e-3, schedule="linear", optimizer="muon", muon_lr=0.02)
    assert rates(muon, monkeypatch) == [(0.02, 1e-3), (0.02, 1e-3)]
    following = muon.model_copy(update={"muon_follows_schedule": True})
    assert rates(following, monkeypatch) == [(0.02, 1e-3), (0.01, 5e-4)]
    with pytest.raises(ValidationError, match="muon_follows_schedule"):
        TrainingOptions(optimizer="muon", warmup_steps=2)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_loss_that_is_no_number_names_its_items(accumulate: int) -> None:
    planted = plant()
    items = list(enumerate(encode(planted.tokenizer, fact) for fact in planted.concept.never_taught))
    used: list[list[int]] = []

    def collate(rows: Any) -> dict[str, torch.Tensor]:
        return {**labelled([row for _, row in rows]), "number": torch.tensor([number for number, _ in rows])}

    def loss(hf: Any, batch: Any) -> torch.Tensor:
        used.append(batch["number"].tolist())
        return row_mean(hf, batch) * (float("inf") if len(used) == 3 else 1.0)

    options = TrainingOptions(steps=5, batch_size=4, accumulate=accumulate)
    with pytest.raises(RunError, match="became inf at step") as caught:
        train(planted.model, items, collate, loss, options)
    step = 3 if accumulate == 1 else 2
    assert f"at step {step} of 5 (items {', '.join(map(str, used[2]))} of" in str(caught.value)
    assert len(used[2]) == 4 // accumulate
    assert all(p.isfinite().all() for p in planted.model.parameters())


def test_parts_that_are_not_equal_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"accumulate \(3\) must divide batch_size \(8\)"):
        TrainingOptions(accumulate=3)
