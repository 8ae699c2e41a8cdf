import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel

from interventions.concept_ablation import ConceptAblation
from probes.attribution_patching import AttributionPatching, agreement, attributions, members_of
from probes.causal_trace import CausalTrace
from probes.trace_cells import NOTHING, ROLES, Cell, patched, roles_of
from probes.trace_corruption import EMBED, UNANSWERED, Case, subject_embeddings
from probes.trace_metrics import LogitDifference
from tests import zoo
from workbench.concepts import Fact, FactSet
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.scoring import score
from workbench.sites import Site
from workbench.tokens import Encoded

PARTS = ("embed", "resid_post", "mlp_out", "attn_out", "head", "mlp_act")
GOLDEN = Path(__file__).parents[1] / "golden"


def linear_model() -> HookedModel:
    """A GPT-2 that is linear in everything: attention looks everywhere alike, norms divide by a constant."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=zoo.VOCAB,
        n_embd=32,
        n_layer=3,
        n_head=4,
        n_positions=64,
        activation_function="linear",
        layer_norm_epsilon=1e10,
        attn_implementation="eager",
    )
    hf = GPT2LMHeadModel(config)
    with torch.no_grad():
        for name, parameter in hf.named_parameters():
            if "ln_" in name:
                parameter.fill_(1e5 if name.endswith("weight") else 0.0)  # variance is nothing beside 1e10
            else:
                parameter.copy_(torch.randn(parameter.shape) * 0.2)
            if "c_attn" in name:
                parameter[..., :64] = 0  # queries and keys
    return HookedModel(hf, zoo.tokenizer(), check=False)


def facts_of_the_zoo() -> FactSet:
    prompts = {"Marla Kent": "The violin of Marla Kent is kept in a", "chemist": "A chemist reads the label"}
    return FactSet(
        name="zoo",
        facts=tuple(
            Fact(subject=subject, prompt=prompt, answer="house", distractors=("river",))
            for subject, prompt in prompts.items()
        ),
    )


def both_ways(model: HookedModel, method: AttributionPatching, facts: FactSet) -> tuple[np.ndarray, np.ndarray]:
    """Estimates and true effects at tokens from the subject on, for every corruption; of each MLP, some neurons."""
    members = members_of(model, method.parts)
    few = {site: [*range(0, len(group), -(-len(group) // 4))] for site, group in members.items()}
    names = [members[site][i] for site in members for i in few[site]]
    estimated, true = [], []
    for case in method.cases(model, facts)[0]:
        roles = roles_of(case.encoded)[::3] + roles_of(case.encoded)[-1:]
        found = attributions(model, case, tuple(members), method.at)
        for site, products in found.items():
            at = torch.stack([products[:, list(positions)].sum(dim=1) for _, positions in roles])
            at = at.view(len(roles), len(case.measures), len(members[site]), -1).sum(-1).permute(2, 0, 1)
            estimated.append(at[few[site]])
        cells = [Cell((name,), positions) for name in names for _, positions in roles]
        scores = patched(model, case, [NOTHING, *cells], method.at)
        true.append((scores[1:] - scores[0]) * (1 if method.at == "corrupted" else -1))
    return torch.cat([e.flatten() for e in estimated]).numpy(), torch.cat([t.flatten() for t in true]).numpy()


# ---- what must be exact


@pytest.mark.parametrize("at", ["corrupted", "clean"])
def test_equals_patching_where_the_model_is_linear(at):
    method = AttributionPatching(corruption="noise", samples=2, unanswered="trace", parts=PARTS, at=at)
    estimated, true = both_ways(linear_model(), method, facts_of_the_zoo())
    assert np.allclose(estimated, true, atol=1e-3 * np.abs(true).max())
    assert (np.abs(true) > 0.05 * np.abs(true).max()).mean() > 0.1
    trace = method.look(linear_model(), facts_of_the_zoo())
    for group in ("top", "random"):
        assert trace.notes["verified"][group]["pearson"] == pytest.approx(1, abs=1e-4)
        assert np.allclose(*(trace.notes["verified"][group][side] for side in ("estimated", "patched")), atol=0.02)


@pytest.mark.parametrize("at", ["corrupted", "clean"])
@pytest.mark.parametrize("name", ["gpt_neox", "gemma3", "granitemoe", "qwen2_moe"])
def test_equals_patching_for_a_small_step_in_every_shape_of_model(name, at):
    model = HookedModel(zoo.make(name), zoo.tokenizer(), check=False)
    there = {site.part for site in model.taps}
    parts = tuple(part for part in PARTS if part in there or part == "mlp_act")
    method = AttributionPatching(
        corruption="noise", noise_scale=0.003, samples=1, unanswered="trace", parts=parts, at=at, metric="logprob"
    )
    estimated, true = both_ways(model, method, facts_of_the_zoo())
    large = np.abs(estimated).max()
    assert large > 2e-4
    near = np.abs(estimated - true) < 0.05 * large
    assert near.mean() >= (0.97 if model.mixture_layers else 1)  # another expert being chosen is no small step
    assert agreement(estimated[near, None], true[near, None])["pearson"] > 0.99


def test_equals_the_published_code(golden_models):
    record = json.loads((GOLDEN / "tracing.json").read_text())["records"]
    record = next(row for row in record if row["id"] == "trace.attribution_patching.gpt2")
    published, tolerance = record["published"]["float32"], record["tolerance"]["float32"]
    stored, model = load_file(GOLDEN / "tracing.safetensors"), golden_models["gpt2"]
    wide = published["clean_logit_diff"] - published["corrupted_logit_diff"]
    sites = [EMBED, *(Site(i, part) for i in range(4) for part in ("resid_post", "attn_out", "mlp_out"))]
    found, true = dict.fromkeys(sites, 0.0), dict.fromkeys(sites, 0.0)
    for clean, corrupt, (right, wrong) in zip(
        *(stored[f"atp.{name}"].tolist() for name in ("clean", "corrupted", "answers")), strict=True
    ):
        differ = tuple(i for i, pair in enumerate(zip(clean, corrupt, strict=True)) if pair[0] != pair[1])
        broken = subject_embeddings(model, [Encoded((*corrupt, wrong), len(corrupt), differ)])[0]
        encoded = Encoded((*clean, right), len(clean), differ)
        case = Case(0, encoded, broken[None], (LogitDifference(0, right, wrong),))
        for site, products in attributions(model, case, sites).items():
            found[site] = found[site] + products.sum(dim=(0, 2))[: len(clean)].numpy() / 2 / wide
        cells = [Cell((site,), (p,)) for site in sites for p in range(len(clean))]
        low, *scores = patched(model, case, [NOTHING, *cells])[:, 0].tolist()
        for i, site in enumerate(sites):
            row = np.array(scores[i * len(clean) : (i + 1) * len(clean)])
            true[site] = true[site] + (row - published["corrupted_logit_diff"]) / 2 / wide
        assert low == pytest.approx(published["corrupted_logit_diff"], abs=20)  # of one prompt, they give the mean
    near = {"rtol": tolerance["rtol"], "atol": tolerance["atol"]}
    stream = [EMBED, *(Site(i, "resid_post") for i in range(4))]  # what enters each layer, and what leaves the last
    rows = [row for row, name in zip(published["attr_residual"], published["residual_labels"], strict=True)
            if not name.endswith("mid")]  # fmt: skip
    assert np.allclose([found[site] for site in stream], rows, **near) and np.abs(rows).max() > 0.2
    layers = dict(zip(published["layer_out_labels"], published["attr_layer_out"], strict=True))
    assert np.allclose(found[EMBED], layers["embed"], **near)
    for i in range(4):
        for part in ("attn_out", "mlp_out"):
            assert np.allclose(found[Site(i, part)], layers[f"{i}_{part}"], **near)
            assert np.allclose(true[Site(i, part)], published["activation_patching_layer_by_pos"][part][i], **near)
    patched_stream = published["activation_patching_layer_by_pos"]["resid_pre"]
    assert np.allclose([true[site] for site in stream[:4]], patched_stream, **near)


# ---- what was planted, and what was not


@pytest.mark.parametrize(  # at the clean text the log-probability is flat
    ("metric", "at"), [("logit_difference", "corrupted"), ("logit_difference", "clean"), ("logprob", "corrupted")]
)
def test_finds_the_planted_neurons(known, metric, at):
    method = AttributionPatching(parts=("mlp_act",), metric=metric, at=at, verify=0)
    for facts in (known.concept.forget, known.concept.near):
        truth = set(known.planted.sites_of(facts.facts))
        trace = method.look(known.model, facts)
        assert len(truth & set(trace.top("site", len(truth)))) >= 0.9 * len(truth)
        assert trace.notes["verified"] is None


def test_finds_nothing_that_was_never_taught(known):
    method = AttributionPatching(unanswered="trace", parts=("attn_out", "mlp_out", "mlp_act"), verify=0)
    never, taught = (
        np.nanmax(np.abs(method.look(known.model, facts).mean("fact").values))
        for facts in (known.concept.never_taught, known.concept.forget)
    )
    assert never < 1 and taught > 5  # logits


def test_no_corruption_has_no_effect(known):
    for probe in (AttributionPatching, CausalTrace):
        method = probe(corruption="noise", noise_scale=0.0, metric="logprob", samples=1)
        values = method.look(known.model, known.concept.forget).values
        assert np.nanmax(np.abs(values)) < 1e-4 and np.isfinite(values).any()


def test_an_answer_that_is_another_s_is_left_out(known):
    facts = known.concept.forget.facts
    words = [fact.answer for fact in facts]
    swapped = [fact.model_copy(update={"answer": words[i - 1]}) for i, fact in enumerate(facts)]
    wrong = FactSet(name="wrong", facts=tuple(swapped))
    trace = AttributionPatching().look(known.model, wrong)
    left = [i for i, word in enumerate(words) if word != words[i - 1]]
    assert trace.notes["skipped"] == {UNANSWERED: len(left)} and len(left) > 5
    assert np.isnan(trace.values[..., left]).all()


def test_sites_found_are_sites_to_act_on(known):
    facts = known.concept.forget
    trace = AttributionPatching(parts=("mlp_act",), verify=0).look(known.model, facts)
    before = score(known.model, facts.facts).probability.mean()
    with ConceptAblation(mode="zero").fit(known.model, known.concept, trace.top("site", 10)).on(known.model):
        assert score(known.model, facts.facts).probability.mean() < 0.2 < before
    others = [site for site in known.model.random_neurons(14) if site not in trace.top("site", 10)][:10]
    with ConceptAblation(mode="zero").fit(known.model, known.concept, others).on(known.model):
        assert score(known.model, facts.facts).probability.mean() > 0.8


# ---- what is kept, told and refused


def test_the_verification_is_true_patching(known):
    facts = known.concept.forget
    trace = AttributionPatching(parts=("mlp_out", "attn_out"), verify=4, samples=1).look(known.model, facts)
    causal = CausalTrace(parts=("mlp_out", "attn_out"), metric="logit_difference", samples=1).look(known.model, facts)
    top, random = (trace.notes["verified"][group] for group in ("top", "random"))
    for group in (top, random):
        assert len(group["cells"]) == 4 and group["pairs"] == 4 * len(facts)
        for (site, role), estimated, true in zip(group["cells"], group["estimated"], group["patched"], strict=True):
            assert true == pytest.approx(causal.pick("site", site).pick("role", role).values.mean(), abs=1e-3)
            assert estimated == pytest.approx(trace.pick("site", site).pick("role", role).values.mean(), abs=1e-6)
    assert min(np.abs(top["estimated"])) >= max(np.abs(random["estimated"]))
    assert not {tuple(cell) for cell in top["cells"]} & {tuple(cell) for cell in random["cells"]}
    assert top["pearson"] > 0.7 and top["cells"][0][0] in ("L2.attn_out", "L1.mlp_out")


def test_agreement_is_told_only_where_it_can_be():
    x = np.array([[1.0, 2.0, np.nan], [3.0, 5.0, 4.0]])
    same = agreement(x, x)
    assert same["pairs"] == 5 and same["pearson"] == pytest.approx(1) and same["mean_absolute_error"] == 0
    assert agreement(x, -x)["spearman"] == pytest.approx(-1) and same["estimated"] == [1.5, 4.0]
    assert agreement(x, np.full_like(x, 2.0))["pearson"] is None
    nothing = agreement(x, np.full_like(x, np.nan))
    assert nothing["mean_absolute_error"] is None and nothing["patched"] == [None, None] and nothing["pairs"] == 0


def test_weak_neurons_are_dropped_and_counted(mixture):
    facts, model = mixture.concept.forget, mixture.model
    trace = AttributionPatching(parts=("attn_out", "mlp_act"), neurons=20, verify=0).look(model, facts)
    total = sum(len(vectors) for _, vectors in model.mlps())
    assert trace.notes["neurons"] == {"kept": 20, "of": total} and trace.values.shape[0] == 3 + 20
    every = AttributionPatching(parts=("mlp_act",), neurons=total, verify=0).look(model, facts)
    kept = [label for label in trace.labels["site"] if "mlp_act" in label]
    strength = np.nanmax(np.abs(every.mean("fact").values), axis=1)
    assert set(kept) == {every.labels["site"][i] for i in np.argsort(-strength)[:20]}


def test_heads_add_up_to_their_layer_and_roles_absent_are_nan(dense):
    facts = dense.concept.forget
    trace = AttributionPatching(parts=("head", "attn_out", "mlp_act", "mlp_out"), neurons=10_000, verify=0).look(
        dense.model, facts
    )
    for layer in range(3):
        for fine, whole in (("head", "attn_out"), ("mlp_act", "mlp_out")):
            parts = [s for s in trace.labels["site"] if s.startswith(f"L{layer}.{fine}[")]
            total = sum(trace.pick("site", site).values for site in parts)
            # The output projection is linear, so what a part adds is what the whole adds.
            assert np.allclose(total, trace.pick("site", f"L{layer}.{whole}").values, atol=1e-4, equal_nan=True)
    absent = [role for role in ROLES if np.isnan(trace.pick("role", role).values).all()]
    assert absent == ["first subject", "middle subject", "following"]


def test_the_model_is_left_as_it_was(dense):
    before = {name: dense.model.parameter(name).clone() for name in dense.model.parameter_names()}
    grads = {name: dense.model.parameter(name).requires_grad for name in dense.model.parameter_names()}
    first = AttributionPatching().look(dense.model, dense.concept.forget)
    again = AttributionPatching().look(dense.model, dense.concept.forget)
    assert np.array_equal(first.values, again.values, equal_nan=True)
    assert all(torch.equal(dense.model.parameter(name), value) for name, value in before.items())
    assert grads == {name: dense.model.parameter(name).requires_grad for name in dense.model.parameter_names()}
    assert all(dense.model.parameter(name).grad is None for name in before)


def test_refuses_what_it_cannot_do(dense):
    with pytest.raises(BadInput, match="its gradient is 0"):
        AttributionPatching(metric="kl", at="clean").look(dense.model, dense.concept.forget)
    with pytest.raises(BadInput, match="empty"):
        AttributionPatching().look(dense.model, FactSet(name="none"))
    for options in ({"parts": ("router",)}, {"at": "middle"}, {"neurons": 0}, {"verify": -1}):
        with pytest.raises(BadInput):
            AttributionPatching(**options)
    assert np.isfinite(AttributionPatching(metric="kl").look(dense.model, dense.concept.forget).values).any()
    nothing = AttributionPatching().look(dense.model, dense.concept.never_taught)
    assert np.isnan(nothing.values).all() and nothing.notes["verified"] is None
