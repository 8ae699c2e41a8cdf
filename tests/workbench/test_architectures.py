"""Every architecture that the workbench says it opens: a tiny random checkpoint, examined as by `doctor`."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests import zoo
from tests.architecture_table import COLUMNS, row_of, table_in_readme
from workbench.architectures import TESTED
from workbench.checkpoint import Checkpoint
from workbench.cli.doctor_model import examine
from workbench.errors import BadInput
from workbench.hooks import Keep, Part
from workbench.model import HookedModel
from workbench.model_check import check, probe_batch, require_sound
from workbench.model_table import lacking, site_table
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
        elif part in ("e*.mlp_act", "e*.mlp_pre"):
            assert width == (24 if name.startswith(("qwen", "deepseek")) else zoo.D_MLP)
        elif part in ("mlp_act", "mlp_pre"):
            assert width == (40 if "shared_expert." in place else 24 if "shared_experts" in place else zoo.D_MLP)
        elif part != "head":
            assert width == zoo.D
    assert all(row["width"] for row in found["sites"])


def test_what_enters_the_activation_is_a_site_wherever_neurons_are(name: str, found: dict) -> None:
    layers = {row["part"]: set() for row in found["sites"]}
    for row in found["sites"]:
        layers[row["part"]] |= set(row["layers"])
        assert row["writable"] or "mlp" not in row["part"]
    for part in ("mlp_", "e*.mlp_"):
        assert layers.get(f"{part}pre") == layers.get(f"{part}act")
    halves = [row["place"] for row in found["sites"] if "entries" in row["place"]]
    assert halves == (["model.layers.*.mlp.gate_up_proj output, entries 0 to 47"] if name == "phi3" else [])


def gate_weights(model: HookedModel, pre: Site) -> list[torch.Tensor]:
    """Views of the weights and biases that make what enters the activation, one neuron a row; by the module's names."""
    width = model.width(pre)
    if pre.expert is not None:
        experts = model.hf.get_submodule(model.anatomy.mixtures[pre.layer].experts)
        weight = experts.gate_up_proj[pre.expert]
        if type(experts).__name__ == "GptOssExperts":
            return [weight[:, ::2].T, experts.gate_up_proj_bias[pre.expert][::2]]
        return [weight[:width]]
    mlp = model.hf.get_submodule(model.tap(replace(pre, part="mlp_act")).path.rpartition(".")[0])
    linear = next(
        getattr(mlp, n) for n in ("gate_proj", "gate_up_proj", "c_fc", "dense_h_to_4h", "fc1") if hasattr(mlp, n)
    )
    weight = linear.weight.T if type(linear).__name__ == "Conv1D" else linear.weight
    return [weight[:width], *([] if linear.bias is None else [linear.bias[:width]])]


def pre_sites(model: HookedModel) -> list[Site]:
    """What enters the activation in the last layer: of its MLP or shared expert, and of an expert that is used."""
    layer, batch = zoo.LAYERS - 1, probe_batch(model)
    found = [Site(layer, "mlp_pre")] if Site(layer, "mlp_pre") in model.taps else []
    used = [int(model.routing(batch)[layer].chosen[0, 2, 0])] if model.mixture_layers else []
    return found + [Site(layer, "mlp_pre", None, expert) for expert in used]


@torch.no_grad()
def test_halving_what_enters_the_activation_is_halving_the_weights_that_make_it(folder: Path) -> None:
    with Checkpoint(folder).open() as model:
        batch = probe_batch(model)
        plain = model.run(batch).logits
        assert pre_sites(model)
        for whole in pre_sites(model):
            for site in (whole, replace(whole, index=7)):
                ours = model.run(batch, rewrite={site: partial(torch.mul, other=0.5)}).logits
                rows = slice(None) if site.index is None else slice(site.index, site.index + 1)
                views = gate_weights(model, whole)
                kept = [view[rows].clone() for view in views]
                for view in views:
                    view[rows] *= 0.5
                theirs = model.run(batch).logits
                for view, before in zip(views, kept, strict=True):
                    view[rows] = before
                torch.testing.assert_close(ours[batch.mask], theirs[batch.mask], atol=2e-6, rtol=1e-5, msg=str(site))
                assert (ours - plain)[batch.mask].abs().max() > 1e-5, site


def test_reading_what_enters_the_activation_changes_no_bit_and_gradients_reach_it(folder: Path) -> None:
    with Checkpoint(folder).open() as model:
        batch, pres = probe_batch(model), pre_sites(model)
        acts = [replace(pre, part="mlp_act") for pre in pres]
        plain = model.run(batch, read=acts)
        for grad in (False, True):
            both = model.run(batch, read=[*pres, *acts, *(replace(pre, index=7) for pre in pres)], grad=grad)
            assert torch.equal(both.logits, plain.logits)
            assert all(torch.equal(both.acts[act], plain.acts[act]) for act in acts)
        for pre in pres:
            sent = (both.acts[pre] != 0).any(dim=-1)
            assert both.acts[pre].shape == (*batch.ids.shape, model.width(pre)) and sent[0, 2]
            assert torch.equal(both.acts[replace(pre, index=7)], both.acts[pre][..., 7])
            (gradient,) = torch.autograd.grad(both.logits[0, 2].sum(), both.acts[pre], retain_graph=True)
            assert (gradient[0, 2] != 0).float().mean() > 0.2 and not gradient[0, 3:].any()
            if pre.expert is not None:
                chosen = (model.routing(batch)[pre.layer].chosen == pre.expert).any(dim=-1)
                assert torch.equal(sent, chosen)


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
    experts.is_concatenated = False
    assert {"an expert's gates are told from the rest"} <= failing()
    experts.is_concatenated = True
    norm = model.hf.model.norm.register_forward_hook(lambda _, __, out: out if out.shape[1] > 6 else out * 2)
    assert {"a pass after a remembered prefix gives the same logits"} <= failing()
    norm.remove()
    assert failing() == set()


@pytest.mark.parametrize("arch", ["llama", "phi3", "qwen2_moe"])
def test_what_is_no_activation_s_input_is_found_out_and_withheld(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The opposite: the wrong half, or the other projection, fails its check and is no site afterwards."""
    model, site = HookedModel(zoo.make(arch), zoo.tokenizer(), name=arch, check=False), Site(1, "mlp_pre")
    tap = model.taps[site]
    wrong = {"entries": (48, 96)} if tap.entries else {"path": tap.path.replace("gate_proj", "up_proj")}
    model.taps[site] = replace(tap, **wrong)
    failed = [c for c in check(model) if not c.passed]
    assert [c.vouches_for for c in failed] == [("L1.mlp_pre",)]
    monkeypatch.setattr("workbench.model_check.TESTED", ())
    require_sound(model)
    with pytest.raises(BadInput, match="no site L1.mlp_pre: its self-check failed: layer 1: what enters"):
        model.run(probe_batch(model), read=[site])
    assert Site(2, "mlp_pre") in model.taps and "mlp_pre" in {site.part for site in model.taps}


def test_experts_whose_gates_cannot_be_told_apart_keep_their_neurons(monkeypatch: pytest.MonkeyPatch) -> None:
    model = HookedModel(zoo.make("olmoe"), zoo.tokenizer(), name="olmoe", check=False)
    model.hf.model.layers[1].mlp.experts.is_concatenated = False
    monkeypatch.setattr("workbench.model_check.TESTED", ())
    require_sound(model)
    batch = probe_batch(model)
    with pytest.raises(BadInput, match="no site L1.e0.mlp_pre: its self-check failed"):
        model.run(batch, read=[Site(1, "mlp_pre", None, 0)])
    assert model.run(batch, read=[Site(1, "mlp_act", None, 0), Site(2, "mlp_pre", None, 0)]).acts
    assert "self-check failed" in lacking(model)["e*.mlp_pre"]
    assert {row.layers for row in site_table(model) if row.part == "e*.mlp_pre"} == {(0, 2)}


def test_experts_that_do_not_name_their_layout_keep_their_neurons(monkeypatch: pytest.MonkeyPatch) -> None:
    hf = zoo.make("olmoe")
    for block in hf.model.layers:
        del block.mlp.experts.is_concatenated
    model = HookedModel(hf, zoo.tokenizer(), name="olmoe")
    with pytest.raises(BadInput, match="do not say which half"):
        model.tap(Site(1, "mlp_pre", None, 0))
    assert "do not say which half" in lacking(model)["e*.mlp_pre"]
    assert model.tap(Site(1, "mlp_act", None, 0))


def test_a_change_of_some_entries_leaves_the_others_where_they_are() -> None:
    given = torch.arange(6.0)
    assert Part(2, 4, partial(torch.mul, other=-1.0))(given).tolist() == [0, 1, -2, -3, 4, 5]
    with torch.no_grad():
        assert Part(2, 4, Keep({}, 0))(given) is given  # what is only read leaves every bit
