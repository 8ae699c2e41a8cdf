"""Adapters reach plain linear maps only, change what they say, and leave nothing of themselves behind."""

import pytest
import torch

from tests import zoo
from workbench.edits import fit_weights
from workbench.errors import BadInput
from workbench.low_rank import adapted, linear_maps
from workbench.model import HookedModel
from workbench.tokens import Batch, pad

USUAL = {"rank": 2, "alpha": 4, "dropout": 0.0, "seed": 0}
BATCH = pad([[0, 5, 6, 7], [0, 9, 3]])


def opened(name: str, dtype: torch.dtype = torch.float32) -> HookedModel:
    return HookedModel(zoo.make(name, dtype=dtype), zoo.tokenizer(), check=False)


def logits(model: HookedModel, batch: Batch = BATCH) -> torch.Tensor:
    with torch.no_grad():
        return model.run(batch).logits[batch.mask]


def state(model: HookedModel) -> list[object]:
    return [
        sorted(vars(model.hf.config)),
        *((name, id(module), sorted(vars(module)), module.training) for name, module in model.hf.named_modules()),
        *((name, id(p), p.requires_grad, p.grad) for name, p in model.hf.named_parameters()),
    ]


@torch.no_grad()
def learn(model: HookedModel, names: tuple[str, ...]) -> None:
    generator = torch.Generator().manual_seed(1)
    for name in names:
        parameter = model.hf.get_parameter(name)
        parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        ("llama", ["mlp.down_proj", "mlp.gate_proj", "mlp.up_proj", *(f"self_attn.{p}_proj" for p in "koqv")]),
        ("gpt2", ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]),
        ("olmoe", [f"self_attn.{p}_proj" for p in "koqv"]),
        (
            "qwen2_moe",
            [
                *(f"mlp.shared_expert.{p}_proj" for p in ("down", "gate", "up")),
                "mlp.shared_expert_gate",
                *(f"self_attn.{p}_proj" for p in "koqv"),
            ],
        ),
        ("granitemoe", [f"self_attn.{p}_proj" for p in "koqv"]),
    ],
)
def test_which_maps_are_reached(name: str, inside: list[str]) -> None:
    found = linear_maps(opened(name), [1])
    assert all(".1." in path for path in found)
    assert sorted(path.partition(".1.")[2] for path in found) == sorted(inside)


def test_a_linear_map_that_does_more_than_multiply_is_left_alone() -> None:
    class Rounding(torch.nn.Linear):
        pass

    model = opened("llama")
    model.hf.get_submodule("model.layers.1.mlp.up_proj").__class__ = Rounding
    found = linear_maps(model, [1])
    assert len(found) == 6 and not any("up_proj" in path for path in found)


@pytest.mark.parametrize(
    ("name", "flag"), [("llama", True), ("llama", False), ("gpt2", True), ("qwen2_moe", True), ("deepseek_v3", True)]
)
def test_nothing_is_left_and_the_merged_weights_do_what_the_adapters_did(name: str, flag: bool) -> None:
    model = opened(name)
    model.hf.requires_grad_(flag)
    before, untouched, paths = state(model), logits(model), linear_maps(model, [0, 2])
    bits = {key: value.clone() for key, value in model.hf.state_dict().items()}

    def change() -> None:
        with adapted(model, paths, **USUAL) as adapter:
            assert torch.allclose(logits(model), untouched, atol=1e-6)  # nothing was learnt yet
            assert len(adapter.parameters) == 2 * len(paths)
            learn(model, adapter.parameters)
            said.append(logits(model))
            adapter.merge()

    said: list[torch.Tensor] = []
    edit = fit_weights(model, [f"{path}.weight" for path in paths], change, {})
    assert state(model) == before
    assert all(torch.equal(value, bits[key]) for key, value in model.hf.state_dict().items())
    assert float((said[0] - untouched).abs().max()) > 0.01
    assert set(edit.changes) == {f"{path}.weight" for path in paths}
    with edit.on(model):
        assert torch.allclose(logits(model), said[0], atol=1e-4)
    assert torch.equal(logits(model), untouched)


def test_without_merging_nothing_changes_also_after_an_error() -> None:
    model = opened("llama")
    before, untouched = state(model), logits(model)
    with pytest.raises(KeyboardInterrupt), adapted(model, linear_maps(model, [1]), **USUAL) as adapter:
        learn(model, adapter.parameters)
        model.hf.train()
        raise KeyboardInterrupt
    assert state(model) == before
    assert torch.equal(logits(model), untouched)


def test_a_failure_while_they_are_put_in_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from peft.tuners.lora import LoraModel

    model, made = opened("llama"), LoraModel._create_and_replace
    before, seen = state(model), []

    def fail_late(self, *args: object, **kwargs: object) -> None:
        seen.append(1)
        if len(seen) == 3:
            raise RuntimeError("broken")
        made(self, *args, **kwargs)

    monkeypatch.setattr(LoraModel, "_create_and_replace", fail_late)
    with pytest.raises(RuntimeError, match="broken"), adapted(model, linear_maps(model, [0, 1]), **USUAL):
        pass
    assert state(model) == before


def test_first_weights_come_from_the_seed_and_the_global_state_is_left() -> None:
    model = opened("llama")

    def first(seed: int) -> torch.Tensor:
        with adapted(model, linear_maps(model, [0]), **USUAL | {"seed": seed}) as adapter:
            return torch.cat([model.hf.get_parameter(n).detach().flatten() for n in adapter.parameters])

    random = torch.get_rng_state()
    assert torch.equal(first(0), first(0)) and not torch.equal(first(0), first(1))
    assert torch.equal(torch.get_rng_state(), random)


def test_adapters_of_a_half_precision_model_are_trained_in_full() -> None:
    model = opened("llama", torch.bfloat16)
    with adapted(model, linear_maps(model, [0]), **USUAL) as adapter:
        assert {model.hf.get_parameter(name).dtype for name in adapter.parameters} == {torch.float32}
        learn(model, adapter.parameters)
        adapter.merge()
    assert {p.dtype for p in model.hf.parameters()} == {torch.bfloat16}


def test_a_layer_that_is_not_there_and_nothing_to_adapt_are_refused() -> None:
    model = opened("llama")
    with pytest.raises(BadInput, match="layers 0 to 2"):
        linear_maps(model, [3])
    with pytest.raises(BadInput, match="no plain linear map"), adapted(model, [], **USUAL):
        pass
