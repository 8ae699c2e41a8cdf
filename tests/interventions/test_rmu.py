"""RMU: agrees with published code, forgets what was planted and keeps the rest, and runs no block it does not need."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from interventions.rmu import AdaptiveRmu, Rmu
from interventions.state_pairs import Pair, Told, collate_for, stored
from interventions.steering import Steering, down_projections
from interventions.steering_loss import control_vector, state_loss
from tests import zoo
from workbench.checkpoint import Checkpoint
from workbench.concepts import FactSet
from workbench.demo.planted import plant
from workbench.edits import kept, load_edit
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.scoring import score
from workbench.sites import Site, parse_sites
from workbench.tokens import pad

GOLDEN = Path(__file__).parents[1] / "golden"
RECORDS = {r["id"]: r for r in json.loads((GOLDEN / "rmu.json").read_text())["records"]}
DRAWN = load_file(GOLDEN / "rmu.safetensors")["rmu.control_rand"]
BATCHES = load_file(GOLDEN / "batches.safetensors")

QUICK = {"steps": 60, "lr": 1e-2, "batch_size": 16, "layer": 1, "alpha": 100.0}
CHANCE = 1 / 8
"""Of a planted colour or fruit; there are fewer candidates for a friend."""


def opened(arch: str):
    found = plant(arch, 0)
    return HookedModel(found.model, found.tokenizer, check=False), found.concept


@pytest.fixture(scope="module")
def dense():
    return opened("llama")


@pytest.fixture(scope="module")
def mixture():
    return opened("olmoe")


@pytest.fixture(params=["dense", "mixture"])
def taught(request: pytest.FixtureRequest):
    return request.getfixturevalue(request.param)


def accuracy(model: HookedModel, concept, edit) -> dict[str, float]:
    with edit.on(model):
        return {
            n: float(score(model, getattr(concept, n).facts).greedy.float().mean()) for n in ("forget", "near", "far")
        }


# ---- published numbers


@pytest.fixture(scope="module")
def golden_hf():
    return {
        who: AutoModelForCausalLM.from_pretrained(GOLDEN / "models" / who, dtype=torch.float64).eval()
        for who in ("llama_unlearned", "llama_base")
    }


def golden_state(hf, part: str) -> torch.Tensor:
    named = {key: BATCHES[f"{part}.{key}"] for key in ("input_ids", "attention_mask")}
    return hf(**named, output_hidden_states=True).hidden_states[2]


@pytest.mark.parametrize(("c", "alpha"), [(20.0, 100.0), (6.5, 1200.0)])
def test_losses_of_the_original_code(golden_hf, c: float, alpha: float) -> None:
    published = RECORDS[f"loss.rmu_original_c{c:g}_a{alpha:g}"]["published"]["float64"]
    with torch.no_grad():
        now = {part: golden_state(golden_hf["llama_unlearned"], part) for part in ("forget", "retain")}
        before = golden_state(golden_hf["llama_base"], "retain")
    mask = torch.zeros(now["forget"].shape[:2], dtype=torch.bool)  # not looked at
    target = c * DRAWN / DRAWN.norm()
    forget, retain = state_loss(now["forget"], target, mask, "wmdp"), state_loss(now["retain"], before, mask, "wmdp")
    assert float(forget) == pytest.approx(published["unlearn_loss"], rel=1e-6)
    assert float(retain) == pytest.approx(published["retain_mse"], rel=1e-6)
    assert float(forget + alpha * retain) == pytest.approx(published["loss"], rel=1e-6)


@pytest.mark.parametrize(("name", "c", "alpha"), [("rmu_ou", 2.0, 1.0), ("rmu_ou_alpha100", 20.0, 100.0)])
@pytest.mark.parametrize("variant", ["published", "token_mean"])
def test_loss_and_gradient_of_open_unlearning(golden_hf, name: str, c: float, alpha: float, variant: str) -> None:
    record = RECORDS[f"loss.{name}.model"]
    expected = record["published"]["float64"] if variant == "published" else record["variants"][variant]["value"]
    hf, how = golden_hf["llama_unlearned"], "open_unlearning" if variant == "published" else None
    with torch.no_grad():
        before = golden_state(golden_hf["llama_base"], "retain")
    target, mask = c * DRAWN / DRAWN.norm(), {part: BATCHES[f"{part}.labels"] != -100 for part in ("forget", "retain")}
    loss = state_loss(golden_state(hf, "forget"), target, mask["forget"], how)
    loss = loss + alpha * state_loss(golden_state(hf, "retain"), before, mask["retain"], how)
    hf.zero_grad()
    loss.backward()
    assert float(loss.detach()) == pytest.approx(expected["loss"], rel=1e-6)
    for inside in ("model.layers.1.mlp.down_proj.weight", "model.embed_tokens.weight"):
        assert float(hf.get_parameter(inside).grad.norm()) == pytest.approx(expected[f"grad_norm:{inside}"], rel=1e-6)
    total = torch.stack([p.grad.norm() for p in hf.parameters() if p.grad is not None]).norm()
    assert float(total) == pytest.approx(expected["grad_norm"], rel=1e-6)


@pytest.mark.parametrize("published", ["wmdp", "open_unlearning"])
def test_the_loss_in_training_is_the_published_one(published: str) -> None:
    name = {"wmdp": "loss.rmu_original_c20_a100", "open_unlearning": "loss.rmu_ou_alpha100.model"}[published]
    site, models = Site(1, "resid_post"), {}
    for who in ("llama_base", "llama_unlearned"):
        models[who] = Checkpoint(GOLDEN / "models" / who).open(check=False)
    named = {
        f"{part}.{key}": BATCHES[f"{part}.{key}"]
        for part in ("forget", "retain")
        for key in ("input_ids", "attention_mask", "labels")
    }
    named |= {f"{part}.counts": torch.zeros_like(named[f"{part}.labels"]).bool() for part in ("forget", "retain")}
    with torch.no_grad():
        named["retain.L1.resid_post"] = golden_state(models["llama_base"].hf, "retain")
        steered = Steering(
            models["llama_unlearned"], {site: (20 * DRAWN / DRAWN.norm())[0, 0].float()}, 100.0, published
        )
        loss = steered(models["llama_unlearned"].hf, named)
    assert float(loss.detach()) == pytest.approx(RECORDS[name]["published"]["float32"]["loss"], rel=1e-5)


def test_means_by_hand() -> None:
    state = torch.tensor([[[1.0, 1.0], [3.0, 3.0]], [[2.0, 2.0], [9.0, 9.0]]])
    mask = torch.tensor([[True, True], [True, False]])
    target = torch.zeros(1, 1, 2)
    assert float(state_loss(state, target, mask)) == pytest.approx((1 + 9 + 4) / 3)
    assert float(state_loss(state, target, mask, "wmdp")) == pytest.approx((1 + 9 + 4 + 81) / 4)
    assert float(state_loss(state, target, mask, "open_unlearning")) == pytest.approx((10 + 4) / 2 * (1 / 2 + 1) / 2)
    unread = state.clone()
    unread[1, 1] = float("nan")
    assert float(state_loss(unread, target, mask)) == pytest.approx(14 / 3)


def test_the_direction_is_an_even_draw_of_length_one() -> None:
    first, again, other = (control_vector(400, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert float(first.norm()) == pytest.approx(1, rel=1e-5)
    assert float(first.min()) >= 0
    assert float(first.max() / first.mean()) == pytest.approx(2, abs=0.2)  # even from 0: the largest is twice the mean


# ---- what it does to a model


@pytest.mark.parametrize(
    ("arch", "method"), [("llama", Rmu(**QUICK)), ("llama", AdaptiveRmu(**QUICK)), ("olmoe", Rmu(**QUICK))]
)
def test_forget_falls_to_chance_and_the_rest_stays(request: pytest.FixtureRequest, arch: str, method: Rmu) -> None:
    model, concept = request.getfixturevalue({"llama": "dense", "olmoe": "mixture"}[arch])
    edit = method.fit(model, concept)
    after = accuracy(model, concept, edit)
    assert after["forget"] <= CHANCE + 0.05
    assert min(after["near"], after["far"]) >= 0.95
    before, now = (edit.notes["states"][f"forget_{when}"]["L1.resid_post"] for when in ("before", "after"))
    assert abs(before["cosine"]) < 0.1
    assert now["cosine"] > before["cosine"] + 0.1
    assert now["norm"] > 1.1 * before["norm"]
    expected = 5 * before["norm"] if method.adaptive else 20.0
    assert edit.notes["c"] == {"L1.resid_post": pytest.approx(expected)}
    assert "flattered" in edit.notes["retain"] and not edit.notes["warnings"]


def test_without_the_retain_term_the_neighbours_go_too(dense) -> None:
    model, concept = dense
    edit = Rmu(**QUICK | {"alpha": 0.0}).fit(model, concept)
    after = accuracy(model, concept, edit)
    assert after["forget"] <= CHANCE + 0.05
    assert after["near"] < 0.6
    assert edit.notes["stored_bytes"] == 0 and edit.notes["retain"] == ""


def test_open_unlearnings_variant_does_not_hold_what_predicts_a_one_token_answer(dense) -> None:
    model, concept = dense
    after = accuracy(model, concept, AdaptiveRmu(**QUICK, published="open_unlearning").fit(model, concept))
    assert after["near"] < 0.6  # 1 with every token held, above


def test_a_coefficient_below_the_norm_is_warned_of(dense) -> None:
    model, concept = dense
    edit = Rmu(steps=1, coefficient=3.0, layer=1).fit(model, concept)
    assert edit.notes["warnings"] == [
        "c at L1.resid_post is below twice the norm that forget tokens had there; a larger one steers them away"
    ]


def test_the_model_is_as_before_and_the_same_seed_gives_the_same_bytes(taught) -> None:
    model, concept = taught
    before = {name: value.clone() for name, value in model.hf.state_dict().items()}
    forwards = [module.__dict__.get("forward") for module in model.hf.modules()]
    digests = [Rmu(steps=3, seed=seed).fit(model, concept).digest for seed in (0, 0, 1)]
    assert all(torch.equal(value, before[name]) for name, value in model.hf.state_dict().items())
    assert [module.__dict__.get("forward") for module in model.hf.modules()] == forwards
    assert digests[0] == digests[1] != digests[2]
    assert not any(p.grad is not None for p in model.hf.parameters())


def test_the_model_is_as_before_after_an_error(dense) -> None:
    model, concept = dense
    before = {name: value.clone() for name, value in model.hf.state_dict().items()}

    def stop(step: int, _: float) -> None:
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Rmu(steps=5, lr=1e-2).fit(model, concept, progress=stop)
    assert all(torch.equal(value, before[name]) for name, value in model.hf.state_dict().items())
    assert model.run(pad([[0, 1]])).logits is not None and not model.guards


def test_edit_is_saved_and_the_checkpoint_reloads_equal(planted_folder: Path, planted, tmp_path: Path) -> None:
    model, concept = Checkpoint(planted_folder).open(check=False), planted.concept
    edit = Rmu(steps=2, lr=1e-3).fit(model, concept)
    edit.save(tmp_path / "edit")
    assert load_edit(tmp_path / "edit").digest == edit.digest
    with edit.on(model):
        wanted = {name: value.clone() for name, value in model.hf.state_dict().items()}
    edit.write(model, tmp_path / "written")
    again = Checkpoint(tmp_path / "written").open(check=False).hf.state_dict()
    assert all(torch.equal(again[name], value) for name, value in wanted.items())
    assert any(not torch.equal(again[name], value) for name, value in model.hf.state_dict().items())


# ---- where it acts


def downs(*layers: int) -> list[str]:
    return [f"model.layers.{layer}.mlp.down_proj.weight" for layer in layers]


@pytest.mark.parametrize(
    ("where", "steered", "trained"),
    [
        (None, ["L1.resid_post"], downs(0, 1)),
        (["L2.resid_post"], ["L2.resid_post"], downs(0, 1, 2)),
        (["L1.mlp_out"], ["L1.resid_post"], downs(1)),
        (["L2.mlp_out", "L0.mlp_out"], ["L2.resid_post"], downs(2, 0)),
        (["L0.mlp_out", "L2.resid_post"], ["L2.resid_post"], downs(0)),
        (["L1.resid_post", "L0.resid_post"], ["L0.resid_post", "L1.resid_post"], downs(0, 1)),
    ],
    ids=str,
)
def test_sites_say_what_is_steered_and_what_is_trained(dense, where, steered, trained) -> None:
    model, concept = dense
    sites = None if where is None else parse_sites(where)
    edit = Rmu(steps=2, lr=1e-3).fit(model, concept, sites)
    assert sorted(edit.notes["trained"]) == sorted(trained)
    assert set(edit.changes) == set(trained)
    assert list(edit.notes["c"]) == steered


def test_fewer_layers_and_another_layer_can_be_asked_for(dense) -> None:
    model, concept = dense
    assert set(Rmu(steps=1, layer=2, depth=1).fit(model, concept).changes) == set(downs(2))
    assert set(Rmu(steps=1, layer=2, depth=2).fit(model, concept).changes) == set(downs(1, 2))


def test_one_expert_alone_can_be_trained(mixture) -> None:
    (model, concept), expert = mixture, plant("olmoe", 0).sites_of(mixture[1].forget.facts)[0].expert
    before = model.hf.get_parameter("model.layers.1.mlp.experts.down_proj").detach().clone()
    edit = AdaptiveRmu(**QUICK).fit(model, concept, [Site(1, "expert", expert)])
    assert edit.notes["trained"] == [f"model.layers.1.mlp.experts.down_proj[{expert}]"]
    with edit.on(model):
        moved = (model.hf.get_parameter("model.layers.1.mlp.experts.down_proj") != before).flatten(1).any(dim=1)
    assert moved.nonzero()[:, 0].tolist() == [expert]
    assert accuracy(model, concept, edit)["forget"] <= CHANCE + 0.05


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ([], "no site at all"),
        (["L1.attn_out"], r"L1\.attn_out"),
        (["L1.mlp_act[3]"], r"L1\.mlp_act\[3\]"),
        (["L1.resid_post[3]"], r"L1\.resid_post\[3\]"),
        (["embed"], "embed"),
        (["L9.resid_post"], "no site L9"),
        (["L9.mlp_out"], "no site L9"),
        (["L1.mlp_out[3]"], "whole parts"),
        (["L1.expert[0]"], "mixture"),
        (["L2.mlp_out", "L1.resid_post"], "above every steered state"),
    ],
    ids=str,
)
def test_wrong_sites_are_refused(dense, where, says: str) -> None:
    model, concept = dense
    with pytest.raises(BadInput, match=says):
        Rmu(steps=1).fit(model, concept, parse_sites(where))


@pytest.mark.parametrize("layer", [-1, 3])
def test_a_layer_that_is_not_there_is_refused(dense, layer: int) -> None:
    model, concept = dense
    with pytest.raises(BadInput, match="layers 0 to 2"):
        Rmu(steps=1, layer=layer).fit(model, concept)


def test_nothing_to_retain_is_refused(dense) -> None:
    model, concept = dense
    empty = FactSet(name="none")
    bare = concept.model_copy(update={"near": empty, "far": empty, "retain": empty})
    with pytest.raises(BadInput, match="or set alpha=0"):
        Rmu(steps=1).fit(model, bare)
    assert Rmu(steps=1, alpha=0).fit(model, bare).changes


@pytest.mark.parametrize("options", [{"coefficient": 0}, {"published": "rmu"}, {"depth": 0}, {"alfa": 1}])
def test_wrong_options_are_refused_by_name(options) -> None:
    with pytest.raises(BadInput, match=next(iter(options))):
        Rmu(**options)


@pytest.mark.parametrize("name", ["gpt2", "phi3", "gemma2", "gpt_oss", "qwen2_moe", "deepseek_v3"])
def test_down_projections_are_found_by_what_they_are(name: str) -> None:
    model = HookedModel(zoo.make(name), zoo.tokenizer(), check=False)
    found = down_projections(model, [Site(1, "mlp_out")])
    expected = {
        "gpt2": ["transformer.h.1.mlp.c_proj.weight"],
        "phi3": ["model.layers.1.mlp.down_proj.weight"],
        "gemma2": ["model.layers.1.mlp.down_proj.weight"],
        "gpt_oss": ["model.layers.1.mlp.experts.down_proj"],
        "qwen2_moe": ["model.layers.1.mlp.experts.down_proj", "model.layers.1.mlp.shared_expert.down_proj.weight"],
        "deepseek_v3": ["model.layers.1.mlp.experts.down_proj", "model.layers.1.mlp.shared_experts.down_proj.weight"],
    }
    assert sorted(found) == expected[name]


# ---- the pass


def batch_for(model: HookedModel, concept) -> dict[str, torch.Tensor]:
    site = Site(1, "resid_post")
    retain = stored(model, concept.near.facts, [site])
    pairs = [Pair(Told(fact), kept) for fact, kept in zip(model.encode(concept.forget.facts), retain, strict=False)]
    return collate_for(model)(pairs)


def gradients(model: HookedModel, concept) -> tuple[dict[str, torch.Tensor], list[int]]:
    """Of a Steering loss at layer 1, and which blocks' attention ran."""
    ran: list[int] = []
    hooks = [
        model.hf.get_submodule(f"model.layers.{i}.self_attn").register_forward_hook(lambda *_, i=i: ran.append(i))
        for i in range(model.n_layers)
    ]
    target = {Site(1, "resid_post"): 20 * control_vector(model.d_model, 0)}
    model.hf.zero_grad()
    Steering(model, target, 10.0)(model.hf, batch_for(model, concept)).backward()
    for hook in hooks:
        hook.remove()
    found = {name: p.grad.clone() for name, p in model.hf.named_parameters() if p.grad is not None}
    model.hf.zero_grad()
    return found, ran


def test_blocks_above_the_steered_layer_do_not_run_and_gradients_are_those_of_a_whole_pass(
    taught, monkeypatch: pytest.MonkeyPatch
) -> None:
    import interventions.steering as steering
    from interventions.state_pairs import states

    model, concept = taught
    cut, ran = gradients(model, concept)
    assert set(ran) == {0, 1}
    monkeypatch.setattr(steering, "states", lambda *args: states(*args, whole=True))
    whole, ran = gradients(model, concept)
    assert set(ran) == {0, 1, 2}
    assert set(cut) == {name for name in whole if float(whole[name].abs().max()) > 0}
    assert not any(".layers.2." in name for name in cut)
    assert all(torch.allclose(cut[name], whole[name], rtol=1e-5, atol=1e-7) for name in cut)


def test_the_loss_starts_without_a_retain_part_and_its_gradient_is_that_of_the_steering_alone(dense) -> None:
    model, concept = dense
    batch, target = batch_for(model, concept), {Site(1, "resid_post"): 20 * control_vector(model.d_model, 0)}
    with torch.no_grad():
        alone, both = (float(Steering(model, target, alpha)(model.hf, batch)) for alpha in (0.0, 1000.0))
        assert both == pytest.approx(alone, rel=1e-5)
        with kept(model, ["model.layers.0.mlp.down_proj.weight"]):
            model.parameter("model.layers.0.mlp.down_proj.weight").mul_(1.5)
            moved = [float(Steering(model, target, alpha)(model.hf, batch)) for alpha in (0.0, 1000.0)]
    assert moved[1] > moved[0] + 0.1


def test_states_stored_at_padding_are_those_of_the_batch(dense) -> None:
    model, concept = dense
    site, facts = Site(1, "resid_post"), [*concept.forget.facts[:3], *concept.forget.facts[-1:]]
    told = stored(model, facts, [site], padding=True)
    batch = pad([one.fact.ids for one in told])
    assert len({len(one.fact.ids) for one in told}) > 1
    value = model.run(batch, read=[site]).acts[site]
    assert torch.allclose(torch.stack([one.known[str(site)] for one in told]), value, atol=1e-5)
    cut = stored(model, facts, [site])
    assert [len(one.known[str(site)]) for one in cut] == [len(one.fact.ids) for one in cut]


def test_the_original_mean_holds_padding_where_it_was(dense) -> None:
    model, concept = dense
    assert len({len(fact.ids) for fact in model.encode(concept.forget.facts)}) > 1
    turned = concept.model_copy(update={"forget": concept.near, "retain": concept.forget})
    options = {"steps": 1, "batch_size": 16, "published": "wmdp"}
    alone, both = (Rmu(**options, alpha=alpha).fit(model, turned).notes["losses"][0] for alpha in (0.1, 1000.0))
    assert both == pytest.approx(alone, rel=1e-4)  # nothing has moved yet


def test_special_tokens_are_not_steered(dense) -> None:
    model, concept = dense
    batch = batch_for(model, concept)
    bos = batch["forget.input_ids"] == model.tokenizer.bos_token_id
    assert bos[:, 0].all() and not (batch["forget.counts"] & bos).any()
    assert (batch["forget.counts"] == (batch["forget.attention_mask"].bool() & ~bos)).all()


def test_a_fit_that_was_stopped_goes_on_to_the_same_bytes(dense, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("interventions.rmu.KEEP_EVERY", 2)
    model, concept = dense
    method = AdaptiveRmu(**QUICK | {"steps": 6})
    whole = method.fit(model, concept)

    def stop(step: int, _: float) -> None:
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        method.fit(model, concept, progress=stop, keep=tmp_path)
    told: list[int] = []
    again = method.fit(model, concept, progress=lambda step, _: told.append(step), keep=tmp_path)
    assert told == [5, 6]
    assert (again.digest, again.notes) == (whole.digest, whole.notes)
    with pytest.raises(BadInput, match="another training"):
        method.fit(model, concept, [Site(2, "resid_post"), Site(1, "mlp_out"), Site(0, "mlp_out")], keep=tmp_path)
