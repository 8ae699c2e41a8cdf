"""Every architecture that the workbench says it opens: a tiny random checkpoint, examined as by `doctor`."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests import zoo
from tests.architecture_table import COLUMNS, row_of, table_in_readme
from workbench.architectures import TESTED
from workbench.checkpoint import Checkpoint
from workbench.cli.doctor_model import examine
from workbench.model import HookedModel
from workbench.model_check import check, probe_batch
from workbench.opening import Opening
from workbench.sites import Site
from workbench.tokens import pad

SPLIT = ("gpt2", "phi3")
"""TransformerLens splits the fused projections of these, which rounds otherwise."""

STREAM = ["embed", "resid_pre", "resid_post", "attn_out", "mlp_out", "head"]


@pytest.fixture(scope="module", params=zoo.ARCHITECTURES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return zoo.save(name, tmp_path_factory.mktemp(name))


@pytest.fixture(scope="module")
def found(folder: Path) -> dict:
    return examine(str(folder), Opening())


def test_every_check_passes_and_is_tight(name: str, found: dict) -> None:
    failed = [c["name"] for c in found["checks"] if not c["passed"]]
    assert failed == []
    deviations = {c["name"]: c["deviation"] for c in found["checks"] if "changes the logits" not in c["name"]}
    assert max(deviations.values()) < 1e-5
    assert deviations["TransformerLens twin equals Hugging Face"] <= (2e-6 if name in SPLIT else 0.0)
    assert deviations["hooked run equals plain Hugging Face"] == 0.0
    scaled = name == "granitemoe"  # a value multiplied and divided again may lose its last bit
    assert deviations["identity rewrite changes nothing"] <= (1e-6 if scaled else 0.0)
    kinds = {"left and right padding agree", "saved and loaded again, the logits are the same bits"}
    assert kinds <= set(deviations)
    assert (name in zoo.MOE_CONFIGS) == any("silenced at its tap" in n for n in deviations)


def test_the_site_table_has_the_shapes_of_the_config(name: str, found: dict) -> None:
    widths = {(row["part"], row["place"]): row["width"] for row in found["sites"]}
    parts = {part for part, _ in widths}
    assert set(STREAM) <= parts
    assert ("resid_mid" in parts) == (name not in ("gpt_neox", "phi"))
    for (part, place), width in widths.items():
        if part == "router":
            assert width == zoo.EXPERTS
        elif part == "e*.mlp_act":
            assert width == (24 if name.startswith(("qwen", "deepseek")) else zoo.D_MLP)
        elif part == "mlp_act":
            assert width == (40 if "shared_expert." in place else 24 if "shared_experts" in place else zoo.D_MLP)
        elif part != "head":
            assert width == zoo.D
    assert all(row["width"] for row in found["sites"])


def test_what_an_architecture_lacks_is_named(name: str, found: dict) -> None:
    lacking = found["lacking"]
    assert ("resid_mid" in lacking) == (name in ("gpt_neox", "phi"))
    assert ("router" in lacking) == (name in zoo.DENSE_CONFIGS)
    if name in ("gpt_neox", "phi"):
        assert "parallel" in lacking["resid_mid"]
    assert all(lacking.values())


def test_value_vectors_and_unembedding_are_the_checkpoint_s_own(folder: Path, name: str) -> None:
    with Checkpoint(folder).open() as model:
        assert model.unembedding is model.hf.get_output_embeddings().weight
        for site, rows in model.mlps():
            store = dict(model.down_projections())[site]
            assert rows.untyped_storage().data_ptr() == model.parameter(store.name).untyped_storage().data_ptr()
            assert rows.shape[1] == zoo.D
        by_row = {store.by_row for _, store in model.down_projections()}
        assert by_row == {name in ("gpt2", "gpt_oss")}
        behind = {store.through is not None for _, store in model.down_projections()}
        assert behind == {name in ("gemma2", "gemma3", "olmo2")}


@pytest.mark.parametrize("name", zoo.MOE_CONFIGS, indirect=True)
def test_routing_is_what_the_library_computes(folder: Path, name: str) -> None:
    with Checkpoint(folder).open() as model:
        batch = probe_batch(model)
        routing = model.routing(batch)
        dense = 1 if name.startswith("deepseek") else 0
        assert list(routing) == list(range(dense, zoo.LAYERS))
        theirs = model.hf(**batch.inputs(model.device), output_router_logits=True).router_logits
        for (_, ours), logits in zip(routing.items(), theirs, strict=True):
            torch.testing.assert_close(ours.logits.flatten(0, 1), logits, atol=0, rtol=0)
            assert ours.chosen.shape == ours.weights.shape == (*batch.ids.shape, zoo.TOP_K)
            if name not in ("deepseek_v2", "deepseek_v3"):  # these choose within groups of experts
                best = ours.logits.topk(zoo.TOP_K, dim=-1).indices
                assert torch.equal(best.sort(dim=-1).values, ours.chosen.sort(dim=-1).values)
        assert model.experts_per_token == zoo.TOP_K


@pytest.mark.parametrize("name", zoo.MOE_CONFIGS, indirect=True)
def test_neurons_of_an_expert_are_zero_where_no_token_is_sent(folder: Path, name: str) -> None:
    with Checkpoint(folder).open() as model:
        batch, layer = probe_batch(model), zoo.LAYERS - 1
        chosen = model.routing(batch)[layer].chosen
        sites = [Site(layer, "mlp_act", None, e) for e in range(zoo.EXPERTS)]
        acts = model.run(batch, read=sites).acts
        for expert, site in enumerate(sites):
            sent = (chosen == expert).any(dim=-1)
            assert acts[site][~sent].abs().sum() == 0
            assert not sent.any() or acts[site][sent].abs().amax(dim=-1).min() > 0
        one = Site(layer, "mlp_act", 7, 1)
        assert torch.equal(model.run(batch, read=[one]).acts[one], acts[sites[1]][..., 7])


@pytest.mark.parametrize("name", zoo.MOE_CONFIGS, indirect=True)
def test_reading_inside_experts_changes_no_bit_and_gradients_reach_them(folder: Path, name: str) -> None:
    with Checkpoint(folder).open() as model:
        batch, layer = probe_batch(model), zoo.LAYERS - 1
        plain = model.run(batch).logits
        sites = [site for site, _ in model.mlps()]
        read = model.run(batch, read=sites, grad=True)
        assert torch.equal(read.logits, plain)
        expert = int(model.routing(batch)[layer].chosen[0, 2, 0])
        act = read.acts[Site(layer, "mlp_act", None, expert)]
        (gradient,) = torch.autograd.grad(read.logits[0, 2].sum(), act)
        sent = gradient[0].abs().sum(dim=-1) > 0
        assert sent[2] and not sent[3:].any()


def test_the_list_of_tested_architectures_is_what_is_tested() -> None:
    assert tuple(type(zoo.make(name)).__name__ for name in zoo.ARCHITECTURES) == TESTED


def test_the_table_in_the_readme_is_what_these_tests_find(name: str, found: dict) -> None:
    assert table_in_readme()[row_of(name, found)[0]] == dict(zip(COLUMNS, row_of(name, found), strict=True))


def test_a_bf16_checkpoint_stays_bf16(tmp_path: Path, name: str) -> None:
    saved = zoo.save(name, tmp_path / name, dtype=torch.bfloat16)
    with Checkpoint(saved).open() as model:
        kept = {p.dtype for p in model.hf.parameters()}
        assert kept == {torch.bfloat16}
        again = AutoModelForCausalLM.from_pretrained(saved, dtype="auto", attn_implementation="eager").eval()
        batch = pad([[5, 6, 7]])
        assert torch.equal(model.run(batch).logits, again(**batch.inputs(model.device)).logits)


def test_a_broken_model_fails_the_check_that_is_about_it() -> None:
    """The opposite: each identity fails when what it speaks of is wrong."""
    model = HookedModel(zoo.make("olmoe"), zoo.tokenizer(), name="broken", check=False)
    layer = Site(1, "attn_out")

    def failing() -> set[str]:
        return {c.name.split(": ")[-1] for c in check(model, full=True) if not c.passed}

    assert failing() == set()
    right = dict(model.taps)
    model.taps[layer] = model.taps[Site(1, "mlp_out")]
    assert "residual and attention sum to the residual between" in failing()
    model.taps.update(right)
    experts = model.hf.model.layers[1].mlp.experts
    experts.post_forward = experts.register_forward_hook(lambda _, __, out: out * 1.01)
    assert "value vectors sum to the experts' output" in failing()
    experts.post_forward.remove()
    norm = model.hf.model.norm.register_forward_hook(lambda _, __, out: out if out.shape[1] > 6 else out * 2)
    assert {"a pass after a remembered prefix gives the same logits"} <= failing()
    norm.remove()
    assert failing() == set()
