"""The losses agree with published code on stored logits and models; see tests/golden for their sources."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from interventions.gradient.grad_ascent import ascent_loss
from interventions.gradient.npo import npo_loss
from workbench.objectives import token_loss

GOLDEN = Path(__file__).parents[1] / "golden"
RECORDS = {r["id"]: r for r in json.loads((GOLDEN / "losses.json").read_text())["records"]}
RAW = load_file(GOLDEN / "raw_logits.safetensors")


def losses(forget, forget_before, retain) -> dict[str, torch.Tensor]:
    original = -forget_before.total
    npo = npo_loss(forget, original, beta=0.1)
    return {
        "ga": ascent_loss(forget),
        "graddiff_nll": ascent_loss(forget) + retain.mean,
        "npo_forget": npo,
        "npo": npo + retain.mean,
        "npo_per_token": npo_loss(forget, original, beta=0.1, per_token=True),
    }


def fingerprint(gradient: torch.Tensor) -> float:
    flat = gradient.reshape(-1)
    return float(flat @ torch.arange(len(flat), dtype=flat.dtype).cos())


@pytest.mark.parametrize("name", ["ga", "graddiff_nll", "npo_forget", "npo"])
def test_on_raw_logits_value_and_gradient(name: str) -> None:
    logits = {part: RAW[f"cur.{part}_logits"].clone().requires_grad_(True) for part in ("forget", "retain")}
    with torch.no_grad():
        before = token_loss(RAW["ref.forget_logits"], RAW["labels.forget"])
    value = losses(
        token_loss(logits["forget"], RAW["labels.forget"]), before, token_loss(logits["retain"], RAW["labels.retain"])
    )[name]
    value.backward()
    expected = RECORDS[f"loss.{name}.raw"]["published"]["value"]
    assert float(value) == pytest.approx(expected["loss"], rel=1e-9)
    for part, tensor in logits.items():
        norm = 0.0 if tensor.grad is None else float(tensor.grad.norm())
        assert norm == pytest.approx(expected[f"grad_norm:{part}_logits"], rel=1e-9, abs=1e-12)
    assert fingerprint(logits["forget"].grad) == pytest.approx(expected["grad_dot_cos_ramp:forget_logits"], rel=1e-9)


def test_the_per_token_variant_is_the_one_of_other_published_code() -> None:
    forget, before, retain = (
        token_loss(RAW[f"{who}_logits"], RAW[f"labels.{who.partition('.')[2]}"])
        for who in ("cur.forget", "ref.forget", "cur.retain")
    )
    variant = RECORDS["loss.npo.raw"]["variants"]["token_mean_ratio"]["value"]["loss"]
    found = losses(forget, before, retain)
    assert float(found["npo_per_token"]) == pytest.approx(variant, rel=1e-9)
    assert float(found["npo_forget"]) != pytest.approx(variant, rel=0.1)


@pytest.mark.parametrize("name", ["ga", "graddiff_nll", "npo_forget", "npo"])
def test_on_models_in_float64(name: str) -> None:
    batches = load_file(GOLDEN / "batches.safetensors")
    models = {
        who: AutoModelForCausalLM.from_pretrained(GOLDEN / "models" / who, dtype=torch.float64).eval()
        for who in ("llama_unlearned", "llama_base")
    }

    def loss(who: str, part: str):
        named = {key: batches[f"{part}.{key}"] for key in ("input_ids", "attention_mask")}
        return token_loss(models[who](**named).logits, batches[f"{part}.labels"])

    with torch.no_grad():
        before = loss("llama_base", "forget")
    current = models["llama_unlearned"]
    value = losses(loss("llama_unlearned", "forget"), before, loss("llama_unlearned", "retain"))[name]
    value.backward()
    expected = RECORDS[f"loss.{name}.model"]["published"]["float64"]
    assert float(value) == pytest.approx(expected["loss"], rel=2e-5)
    assert fingerprint(current.lm_head.weight.grad) == pytest.approx(
        expected["grad_dot_cos_ramp:lm_head.weight"], rel=1e-4
    )
    norm = torch.stack([p.grad.norm() for p in current.parameters() if p.grad is not None]).norm()
    assert float(norm) == pytest.approx(expected["grad_norm"], rel=1e-4)


def test_npo_at_the_reference_is_two_over_beta_log_two_with_gradient_ascents_gradient() -> None:
    logits = RAW["cur.forget_logits"].clone().requires_grad_(True)
    loss = token_loss(logits, RAW["labels.forget"])
    npo = npo_loss(loss, -loss.total.detach(), beta=0.5)
    assert float(npo) == pytest.approx(4 * 0.6931471805599453)
    (ours,) = torch.autograd.grad(npo, logits, retain_graph=True)
    (ascent,) = torch.autograd.grad(-loss.total.mean(), logits)
    torch.testing.assert_close(ours, ascent)
