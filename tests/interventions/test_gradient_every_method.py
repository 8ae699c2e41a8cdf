"""Every gradient method of the catalogue: it forgets, leaves the model as it was, is reproducible, and goes on."""

import pytest
import torch

from interventions import INTERVENTIONS
from interventions.gradient import descend as module
from interventions.gradient.descend import GradientMethod
from interventions.gradient.retain_finetune import RetainFinetune
from workbench.demo.planted import plant
from workbench.edits import load_edit
from workbench.model import HookedModel
from workbench.scoring import score

EVERY = [name for name in INTERVENTIONS if issubclass(INTERVENTIONS.load(name), GradientMethod)]
BUDGET = {"steps": 30, "lr": 3e-3}
"""As of test_gradient.py; not tuned for any method, but for WHP's alpha, see its docstring."""
OWN = {"whp": {"alpha": 20.0, "reinforce_steps": 5}}
STOPPED_ALWAYS = ("grad_ascent", "npo", "pdu", "whp")
"""Stopped and taken up in every run of the tests: the plainest, one with a reference, one with a state, two models."""
FORGET_ALWAYS = ("grad_ascent", "npo", "dpo", "simnpo", "undial", "pdu", "whp", "retain_finetune")
"""Fitted in every run of the tests: one of each kind, and the control. The others are fitted by the slow tests."""
BARE = ("grad_ascent", "flat")
"""Without a retain loss by default."""


@pytest.fixture(scope="module")
def planted():
    found = plant("llama", 0)
    return HookedModel(found.model, found.tokenizer, check=False), found.concept


def made(name: str, **options) -> GradientMethod:
    return INTERVENTIONS.load(name)(**OWN.get(name, {}), **options)


def known(model: HookedModel, concept, edit) -> dict[str, float]:
    with edit.on(model):
        return {n: float(score(model, getattr(concept, n).facts).probability.mean()) for n in ("forget", "near", "far")}


def test_the_catalogue_has_the_published_losses() -> None:
    assert len(EVERY) == 20


@pytest.mark.parametrize("name", [n if n in FORGET_ALWAYS else pytest.param(n, marks=pytest.mark.slow) for n in EVERY])
def test_it_forgets_keeps_what_it_retains_and_leaves_the_model_as_it_was(planted, name: str, tmp_path) -> None:
    model, concept = planted
    before = {key: value.clone() for key, value in model.hf.state_dict().items()}
    edit = made(name, **BUDGET).fit(model, concept)
    assert all(torch.equal(value, before[key]) for key, value in model.hf.state_dict().items())
    assert not any(p.grad is not None for p in model.hf.parameters())
    after = known(model, concept, edit)
    if name == "retain_finetune":  # the control
        assert after["forget"] > 0.3
    else:
        assert after["forget"] < 0.1
    if name not in BARE:
        assert min(after["near"], after["far"]) > 0.9
    assert len(edit.notes["losses"]) == 30
    edit.save(tmp_path / "edit")
    assert load_edit(tmp_path / "edit").digest == edit.digest


@pytest.mark.parametrize("name", [n if n in STOPPED_ALWAYS else pytest.param(n, marks=pytest.mark.slow) for n in EVERY])
def test_a_fit_that_was_stopped_goes_on_to_the_same_bytes(planted, name: str, tmp_path, monkeypatch) -> None:
    model, concept = planted
    monkeypatch.setattr(module, "KEEP_EVERY", 2)
    method = made(name, steps=5, lr=1e-3)
    whole = method.fit(model, concept)

    def stop(step: int, _: float) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        method.fit(model, concept, progress=stop, keep=tmp_path)
    steps: list[int] = []
    again = method.fit(model, concept, progress=lambda step, _: steps.append(step), keep=tmp_path)
    assert steps == [3, 4, 5]
    assert again.digest == whole.digest
    assert again.notes == whole.notes


@pytest.mark.parametrize("name", ["dpo", "random_label", "whp", "npo"])
def test_another_seed_gives_another_edit(planted, name: str) -> None:
    model, concept = planted
    assert made(name, steps=2, seed=1).fit(model, concept).digest != made(name, steps=2).fit(model, concept).digest


def test_the_control_forgets_less_than_any_method_at_the_same_budget(planted) -> None:
    model, concept = planted
    control = known(model, concept, RetainFinetune(**BUDGET).fit(model, concept))["forget"]
    npo = known(model, concept, made("npo", **BUDGET).fit(model, concept))["forget"]
    assert control > npo + 0.3


def test_the_last_blocks_alone_can_be_finetuned(planted) -> None:
    model, concept = planted
    edit = RetainFinetune(steps=3, last=1).fit(model, concept)
    assert edit.changes and all(name.startswith("model.layers.2.") for name in edit.changes)
