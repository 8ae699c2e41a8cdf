"""Every stored loss of published code, its value and its gradients, on stored logits and on stored models.

Sources and what was run are in tests/golden/unlearning_losses.json; docs/losses.md says what differs from the papers.
"""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from interventions.gradient.losses.dpo import dpo
from interventions.gradient.losses.pdu import dual_step
from interventions.gradient.losses.said import Said
from interventions.gradient.losses.whp import generic_logits, generic_nll
from tests.interventions.losses.published import (
    BATCHES,
    GOLDEN,
    PARTS,
    PLAIN,
    PUBLISHED,
    RECORDS,
    VARIANTS,
    Case,
    cases,
    fingerprint,
    names,
    raw,
)

Models = dict[str, Any]


@pytest.fixture(scope="module")
def models() -> Models:
    return {
        f"{who}.{dtype}": AutoModelForCausalLM.from_pretrained(
            GOLDEN / "models" / who, dtype=getattr(torch, dtype), attn_implementation="eager"
        ).eval()
        for who in ("llama_unlearned", "llama_base")
        for dtype in ("float32", "float64")
    }


def speak(model: Any, part: str) -> Tensor:
    return model(**{key: BATCHES[f"{part}.{key}"] for key in ("input_ids", "attention_mask")}).logits


@pytest.fixture(scope="module")
def spoken(models: Models) -> dict[str, Case]:
    """What the models say, once; gradients keep the graph."""
    return {dtype: case_of(models, dtype) for dtype in ("float32", "float64")}


def case_of(models: Models, dtype: str) -> Case:
    with torch.no_grad():
        reference = {part: speak(models[f"llama_base.{dtype}"], part) for part in PARTS}
    current = {part: speak(models[f"llama_unlearned.{dtype}"], part) for part in PARTS}
    by_key = [{part: BATCHES[f"{part}.{key}"] for part in PARTS} for key in ("labels", "input_ids", "attention_mask")]
    return Case(current, reference, *by_key)


def close(stored: float, record: dict[str, Any], dtype: str) -> Any:
    tolerance = record["tolerance"][dtype]
    return pytest.approx(stored, rel=tolerance["rtol"], abs=tolerance["atol"])


def test_every_stored_record_and_variant_is_covered() -> None:
    records = {name.removeprefix("loss.").removesuffix(".raw").removesuffix(".model") for name in RECORDS}
    assert records == {*PUBLISHED, *PLAIN}
    stored = {
        (name, variant)
        for name in PUBLISHED
        for kind in ("raw", "model")
        for variant in RECORDS[f"loss.{name}.{kind}"].get("variants", {})
    }
    assert stored == set(VARIANTS)


@pytest.mark.parametrize("stored", cases("raw"), ids=names)
def test_on_raw_logits_value_and_gradients(stored: Any) -> None:
    _, variant, expected, record, function = stored
    expected = expected["value"] if variant == "published" else expected
    case = raw()
    value = function(case, record["arguments"])
    gradients = torch.autograd.grad(value, list(case.logits.values()), allow_unused=True, materialize_grads=True)
    found = {
        "loss": float(value.detach()),
        "grad_norm": float(torch.stack([g.norm() for g in gradients]).norm()),
        **{f"grad_norm:{part}_logits": float(g.norm()) for part, g in zip(PARTS, gradients, strict=True)},
        "grad_dot_cos_ramp:forget_logits": fingerprint(gradients[0]),
    }
    if not isinstance(expected, dict):
        expected = {"loss": expected}
    assert {key: found[key] for key in expected} == {key: close(x, record, "float64") for key, x in expected.items()}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("stored", cases("model"), ids=names)
def test_on_models_value_and_gradients(stored: Any, dtype: str, models: Models, spoken: dict[str, Case]) -> None:
    _, variant, expected, record, function = stored
    if variant == "published":
        expected = expected[dtype]
    elif not isinstance(expected, dict):
        expected = {"loss": expected}
    model = models[f"llama_unlearned.{dtype}"]
    value = function(spoken[dtype], record["arguments"])
    parameters = dict(model.named_parameters())
    gradients = torch.autograd.grad(
        value, list(parameters.values()), retain_graph=True, materialize_grads=True, allow_unused=True
    )
    by_name = dict(zip(parameters, gradients, strict=True))
    found = {"loss": float(value.detach()), "grad_norm": float(torch.stack([g.norm() for g in gradients]).norm())}
    found |= {f"grad_norm:{name}": float(g.norm()) for name, g in by_name.items()}
    found |= {f"grad_dot_cos_ramp:{name}": fingerprint(g) for name, g in by_name.items()}
    assert {key: found[key] for key in expected} == {key: close(x, record, dtype) for key, x in expected.items()}


def test_the_sum_over_each_rows_tokens(spoken: dict[str, Case]) -> None:
    record = RECORDS["loss.batch_nll.raw"]
    found = raw().said("forget").total.tolist()
    assert found == [close(x, record, "float64") for x in record["published"]["value"]]
    record = RECORDS["loss.batch_nll.model"]
    for dtype in ("float32", "float64"):
        found = spoken[dtype].said("forget").total.tolist()
        assert found == [close(x, record, dtype) for x in record["published"][dtype]]


@pytest.mark.parametrize("kind", ["raw", "model"])
def test_the_dual_update(kind: str, spoken: dict[str, Case]) -> None:
    record = RECORDS[f"loss.pdu_dual_update.{kind}"]
    case = raw() if kind == "raw" else spoken["float64"]
    a = record["arguments"]
    retain = float(case.said("retain").mean.detach())
    found = dual_step(a["lambda_before"], retain, a["retain_loss_eps"], a["dual_step_size"])
    assert found == close(record["published"]["value"], record, "float64")
    assert dual_step(1.0, 0.0, bound=10.0, rate=5.0) == 0.0


def test_the_branch_of_tofu_that_raises_is_standard_dpo() -> None:
    record, case = RECORDS["loss.repo_tofu.dpo"], raw()
    assert record["paper_formula"] == "dpo_without_2_over_beta"
    found = dpo(case.said("idk"), case.said("forget"), case.original("idk"), case.original("forget"))
    assert float(found.detach()) == close(record["variants"]["dpo_without_2_over_beta"]["value"], record, "float64")


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("alpha", [1, 5])
def test_whos_harry_potters_generic_logits(alpha: int, dtype: str, spoken: dict[str, Case]) -> None:
    record, case = RECORDS[f"loss.whp_target_alpha{alpha}"], spoken[dtype]
    with torch.no_grad():
        generic = generic_logits(case.reference["forget"], case.logits["forget"], record["arguments"]["alpha"])
    expected = record["published"][dtype]
    said = Said.of(generic, case.labels["forget"])
    assert float(said.mean) == close(expected["loss"], record, dtype)
    assert generic[0, 5, :8].tolist() == [close(x, record, dtype) for x in expected["logits[0,5,:8]"]]
    assert float(generic.double().mean()) == close(expected["logits_mean"], record, dtype)
    assert float(generic.double().norm()) == close(expected["logits_l2"], record, dtype)
    assert generic[0].argmax(dim=-1).tolist() == expected["argmax_row0"]
    # Trained on these targets, a model is at its best where it says them.
    likeliest = torch.nn.functional.cross_entropy(said.logits, said.logits.argmax(dim=-1))
    assert float(generic_nll(said, said.logits)) == pytest.approx(float(likeliest))
    assert float(generic_nll(case.said("forget"), said.logits).detach()) > float(likeliest)
