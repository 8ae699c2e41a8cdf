import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from interventions.gradient.grad_ascent import GradAscent
from interventions.gradient.npo import Npo
from interventions.router_anchor import RouterAnchor, anchor_loss
from interventions.single_expert import SingleExpert
from tests.zoo import MOE_CONFIGS, make, tokenizer
from workbench.checkpoint import Checkpoint
from workbench.concepts import Concept, Fact, FactSet
from workbench.demo.planted import plant
from workbench.edits import WeightEdit, load_edit
from workbench.errors import BadInput, RunError
from workbench.expert_effects import expert_sites
from workbench.expert_ranking import ranking
from workbench.model import HookedModel
from workbench.objectives import answer_loss, labelled
from workbench.scoring import score
from workbench.sites import Site, parse_sites
from workbench.watching import watched

GOLDEN = Path(__file__).parents[1] / "golden"
BUDGET = {"steps": 15, "lr": 1e-3}
"""Chosen on planted models 0 to 2, where at 40 steps the last expert has learnt to hide the answers as well."""
QUICK = {"steps": 3, "lr": 1e-3}
KEPT = ("forget", "near", "far")


@pytest.fixture(scope="module")
def planted():
    found = plant("olmoe", 0)
    return HookedModel(found.model, found.tokenizer, check=False), found


@pytest.fixture(scope="module")
def true_expert(planted) -> Site:
    return expert_of(planted[1])


def expert_of(found) -> Site:
    (site,) = {Site(s.layer, "expert", s.expert) for s in found.sites_of(found.concept.forget.facts)}
    return site


@pytest.fixture(scope="module", params=list(MOE_CONFIGS))
def any_mixture(request: pytest.FixtureRequest) -> HookedModel:
    return HookedModel(make(request.param), tokenizer(), name=request.param, check=False)


def zoo_concept() -> Concept:
    rows = (
        ("The violin", "of Marla Kent is kept in a", "house by the river"),
        ("A chemist", "reads the", "label"),
        ("The captain", "wrote that the harbour lay before", "them"),
    )
    facts = tuple(Fact(subject=who, prompt=f"{who} {rest}", answer=answer) for who, rest, answer in rows)
    none = FactSet(name="none")
    return Concept(
        name="zoo",
        forget=FactSet(name="forget", facts=facts[:2]),
        near=FactSet(name="near", facts=facts[2:]),
        far=none,
        never_taught=none,
    )


def recalled(model: HookedModel, concept: Concept, edit: WeightEdit, part: str = "forget") -> float:
    with edit.on(model):
        return float(score(model, getattr(concept, part).facts).greedy.float().mean())


def copies(model: HookedModel) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.hf.state_dict().items()}


def moved(model: HookedModel, before: dict[str, torch.Tensor]) -> dict[str, list[int]]:
    """Every tensor that changed, and along which first-axis entries."""
    after = model.hf.state_dict()
    return {
        name: (after[name] != old).reshape(len(old), -1).any(1).nonzero()[:, 0].tolist()
        for name, old in before.items()
        if not torch.equal(after[name], old)
    }


# ---- the anchor


@pytest.fixture(scope="module")
def stored() -> tuple[dict, dict[str, torch.Tensor]]:
    (record,) = json.loads((GOLDEN / "experts.json").read_text())["records"]
    return record, load_file(GOLDEN / "probes.safetensors")


def test_the_anchor_is_the_published_one_when_padding_counts(stored) -> None:
    record, tensors = stored
    logits, mask = tensors["moe.router_logits"][1].flatten(0, 1), tensors["moe.attention_mask"].bool().flatten()
    target = [record["arguments"]["expert"]]
    published = anchor_loss(logits, torch.ones_like(mask), target, "softmax")
    close = record["tolerance"]["float64"]
    assert float(published) == pytest.approx(
        record["independent_float64"]["anchor_mse"], rel=close["rtol"], abs=close["atol"]
    )
    real = anchor_loss(logits, mask, target, "softmax")
    assert float(real) == pytest.approx(record["variants"]["no_padding"]["value"]["anchor_mse"], rel=1e-9)
    # the paper's squared distance is this times the number of experts
    assert float(published) * 8 == pytest.approx(record["variants"]["l2_norm_squared"]["value"], rel=1e-9)


def test_the_anchor_by_hand() -> None:
    every = torch.ones(3, dtype=torch.bool)
    uniform = torch.zeros(3, 4)
    assert float(anchor_loss(uniform, every, [2], "softmax")) == pytest.approx(0.1875)
    # sigmoid scores of 0 are one half: (1 - .5)^2 at the target, .5^2 elsewhere
    assert float(anchor_loss(uniform, every, [2], "sigmoid")) == pytest.approx(0.25)
    sure = torch.tensor([[0.0, 30.0, 0.0, 0.0]]).expand(3, 4)
    assert float(anchor_loss(sure, every, [1], "softmax")) == pytest.approx(0, abs=1e-9)
    # one target in sigmoids of 0, 30, 0, 0: three halves remain
    assert float(anchor_loss(sure, every, [1], "sigmoid")) == pytest.approx(3 * 0.25 / 4)
    both = torch.tensor([[30.0, 30.0, 0.0, 0.0]]).expand(3, 4)
    assert float(anchor_loss(both, every, [0, 1], "softmax")) == pytest.approx(0, abs=1e-9)
    assert anchor_loss(uniform.bfloat16(), every, [2], "softmax").dtype == torch.float32


@pytest.mark.parametrize("published", [False, True])
def test_the_anchor_watches_the_pass_of_the_loss(any_mixture, published: bool) -> None:
    """Its value is that of the routers as the model itself reports them, over real tokens or all."""
    model, layer = any_mixture, any_mixture.mixture_layers[-1]
    items = model.encode([*zoo_concept().forget, *zoo_concept().near])
    batch = labelled(items)
    assert not batch["attention_mask"].all()  # rows of different lengths
    kind = "sigmoid" if model.name == "deepseek_v3" else "softmax"
    anchor = RouterAnchor(1.0, {layer: [1]}, kind, published)
    with anchor.watching(model) as term:
        answer_loss(model.hf, batch)
    value = term()
    raw = logits_by_hand(model, layer, batch)
    scores = raw.sigmoid() if kind == "sigmoid" else raw.exp() / raw.exp().sum(-1, keepdim=True)
    row = torch.eye(raw.shape[-1])[1]
    keep = torch.ones_like(batch["attention_mask"]) if published else batch["attention_mask"]
    by_hand = ((scores - row) ** 2)[keep.bool()].mean()
    assert float(value.detach()) == pytest.approx(float(by_hand.detach()), rel=1e-5)
    weight = model.parameter(model.anatomy.mixtures[layer].router + ".weight")
    (gradient,) = torch.autograd.grad(value, [weight])
    assert gradient.abs().max() > 0


def logits_by_hand(model: HookedModel, layer: int, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """What enters the router, times its weight."""
    router, entered = model.hf.get_submodule(model.anatomy.mixtures[layer].router), []
    handle = router.register_forward_pre_hook(lambda _, args: entered.append(args[0]))
    with torch.no_grad():
        answer_loss(model.hf, batch)
        handle.remove()
        logits = entered[0].reshape(-1, entered[0].shape[-1]) @ router.weight.T
        bias = getattr(router, "bias", None)
    return (logits if bias is None else logits + bias).reshape(*batch["input_ids"].shape, -1)


def test_what_is_watched_is_the_last_pass(planted) -> None:
    model, found = planted
    first, second = (labelled(model.encode(found.concept.forget.facts[part])) for part in (slice(6), slice(1)))
    site = Site(1, "router")
    with watched(model, [site]) as seen:
        with pytest.raises(RunError, match="No pass"):
            _ = seen.mask
        for batch in (first, second):
            answer_loss(model.hf, batch)
            held = seen.acts[site]
    assert torch.equal(held, seen.acts[site]) and held.requires_grad
    assert torch.equal(seen.mask, second["attention_mask"].bool())
    assert held.numel() < logits_by_hand(model, 1, first).numel()
    torch.testing.assert_close(held.detach(), logits_by_hand(model, 1, second).reshape(held.shape))
    answer_loss(model.hf, first)
    assert torch.equal(held, seen.acts[site])  # the block is over


def test_anchored_the_forget_tokens_go_to_the_expert(planted, true_expert: Site) -> None:
    model, found = planted
    shares = {}
    for weight in (0.0, 1.0):
        edit = SingleExpert(anchor=weight, steps=20, lr=1e-3).fit(model, found.concept, [true_expert])
        shares[weight] = edit.notes["routing"]["forget"]["sent_to"][str(true_expert)]
    assert shares[0.0]["before"] == shares[1.0]["before"] < 0.8
    assert shares[1.0]["after"] > 0.95
    assert shares[1.0]["after"] > shares[0.0]["after"] + 0.1


def test_without_the_anchor_it_is_plain_descent_on_the_same_names(planted, true_expert: Site) -> None:
    model, found = planted
    mine = SingleExpert(anchor=0, loss_options={"beta": 0.3}, batch_size=5, seed=3, **QUICK)
    sites = [true_expert, Site(true_expert.layer, "router")]
    plain = Npo(beta=0.3, batch_size=5, seed=3, **QUICK).fit(model, found.concept, sites)
    assert mine.fit(model, found.concept, [true_expert]).digest == plain.digest
    anchored = mine.model_copy(update={"anchor": 1.0}).fit(model, found.concept, [true_expert])
    assert anchored.digest != plain.digest


def test_the_options_reach_the_loss() -> None:
    own = {"steps": 7, "lr": 2e-3, "batch_size": 3, "retain_weight": 0.5, "seed": 4}
    assert SingleExpert(**own, loss_options={"beta": 0.1})._method() == Npo(**own, beta=0.1)
    assert SingleExpert(**own, loss="grad_ascent")._method() == GradAscent(**own)


def test_the_weight_and_the_padding_reach_the_anchor(planted, true_expert: Site) -> None:
    model, found = planted
    facts = found.concept.forget
    lengths = {len(encoded.ids) for encoded in model.encode(facts.facts)}
    made = SingleExpert(anchor=5.0, published=True)._anchor(model, facts, [true_expert])
    assert made is not None and made.router == "softmax" and len(lengths) > 1
    assert (made.weight, made.published, made.targets) == (5.0, True, {1: [true_expert.index]})
    plain = SingleExpert(**QUICK)
    loud = plain.model_copy(update={"anchor": 5.0})
    digests = {one.fit(model, found.concept, [true_expert]).digest for one in (plain, loud)}
    assert len(digests) == 2


# ---- which expert


@pytest.mark.parametrize("by", ["gradient", "knockout"])
def test_it_finds_the_planted_expert_itself(planted, true_expert: Site, by: str) -> None:
    model, found = planted
    edit = SingleExpert(attribution=by, steps=1).fit(model, found.concept)
    said = edit.notes["attribution"]
    assert edit.notes["experts"] == [str(true_expert)]
    assert said["by"] == by and said["rank"] == 0 and said["of"] == 12
    assert next(iter(said["best"])) == str(true_expert)
    assert edit.notes["affinity"]["rank_of_trained"].keys() == {str(true_expert)}


def test_affinity_is_traffic_and_misses_it_where_gradients_do_not() -> None:
    """Of six planted models, gradient names the true expert in all; affinity goes by traffic."""
    named = {"gradient": 0, "affinity": 0}
    for seed in range(6):
        found = plant("olmoe", seed)
        model = HookedModel(found.model, found.tokenizer, check=False)
        for by in named:
            named[by] += next(iter(ranking(model, found.concept.forget.facts, by))) == expert_of(found)
    assert named["gradient"] == 6
    assert named["affinity"] < 6


def test_a_ranking_is_by_size_best_first(planted) -> None:
    model, found = planted
    facts = found.concept.forget.facts
    for by in ("gradient", "knockout", "affinity"):
        order = ranking(model, facts, by)
        assert set(order) == set(expert_sites(model))
        assert list(order.values()) == sorted(order.values(), reverse=True) and min(order.values()) >= 0
    last = SingleExpert(rank=-1, steps=1).fit(model, found.concept)
    assert last.notes["experts"] == [str(list(ranking(model, facts, "gradient"))[-1])]
    assert last.notes["attribution"]["rank"] == 11


def test_the_planted_expert_forgets_twice_as_far_as_the_last_of_the_ranking() -> None:
    """At equal steps, over models that the budget was not chosen on; and what is to stay stays."""
    falls = {0: 0.0, -1: 0.0}
    for seed in (3, 4, 5):
        found = plant("olmoe", seed)
        model = HookedModel(found.model, found.tokenizer, check=False)
        concept = found.concept
        before = {name: float(score(model, getattr(concept, name).facts).greedy.float().mean()) for name in KEPT}
        for rank in falls:
            edit = SingleExpert(rank=rank, **BUDGET).fit(model, concept)
            falls[rank] += before["forget"] - recalled(model, concept, edit)
            if rank == 0:
                assert all(recalled(model, concept, edit, part) >= 0.95 * before[part] for part in ("near", "far"))
    assert falls[0] > 1.5
    assert falls[0] >= 2 * falls[-1]


# ---- what moves


def test_one_step_on_every_mixture_moves_the_expert_and_the_router_alone(any_mixture) -> None:
    model, layer = any_mixture, any_mixture.mixture_layers[-1]
    before = copies(model)
    edit = SingleExpert(steps=1, lr=1e-2).fit(model, zoo_concept(), [Site(layer, "expert", 1)])
    assert moved(model, before) == {}
    with edit.on(model):
        found = moved(model, before)
    experts, router = model.anatomy.mixtures[layer].experts, model.anatomy.mixtures[layer].router
    own = {name for name, _ in model.hf.named_parameters() if name.startswith(experts + ".")}
    assert len(own) == (4 if model.name == "gpt_oss" else 2)
    assert found.keys() == own | {n for n, _ in model.hf.named_parameters() if n.startswith(router + ".")}
    assert all(found[name] == [1] for name in own)
    assert found[router + ".weight"] == list(range(4))
    assert 0 < edit.notes["routing"]["forget"]["overlap"] <= 1


def test_on_disk_the_other_experts_are_the_same_bytes(tmp_path: Path) -> None:
    found = plant("olmoe", 0)
    source, expert = found.save(tmp_path / "source"), expert_of(found)
    with Checkpoint(source).open() as model:
        SingleExpert(**QUICK).fit(model, found.concept, [expert]).write(model, tmp_path / "edited")
    old, new = (load_file(folder / "model.safetensors") for folder in (source, tmp_path / "edited"))
    assert old.keys() == new.keys()
    block = f"model.layers.{expert.layer}.mlp"
    expected = {f"{block}.experts.{expert.index}.{name}_proj.weight" for name in ("gate", "up", "down")}
    assert {name for name in old if not torch.equal(old[name], new[name])} == expected | {f"{block}.gate.weight"}


def test_the_model_is_as_before_and_the_same_seed_gives_the_same_bytes(planted) -> None:
    model, found = planted
    before = copies(model)
    digests = [SingleExpert(seed=seed, **QUICK).fit(model, found.concept).digest for seed in (0, 0, 1)]
    assert digests[0] == digests[1] != digests[2]
    with pytest.raises(KeyboardInterrupt):
        SingleExpert(**QUICK).fit(model, found.concept, progress=interrupt)
    assert moved(model, before) == {}
    assert not any(p.grad is not None or p._backward_hooks for p in model.hf.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.hf.modules())


@pytest.mark.parametrize("loss", ["npo", "pdu"])
def test_a_fit_that_was_stopped_goes_on_to_the_same_bytes(planted, tmp_path: Path, monkeypatch, loss: str) -> None:
    monkeypatch.setattr("interventions.gradient.descend.KEEP_EVERY", 2)
    model, found = planted
    method = SingleExpert(loss=loss, steps=5, lr=1e-3, all_experts=True)
    where = [Site(1, "expert", 2)]
    whole = method.fit(model, found.concept, where)
    with pytest.raises(KeyboardInterrupt):
        method.fit(model, found.concept, where, progress=_Stop(4), keep=tmp_path)
    told: list[int] = []
    again = method.fit(model, found.concept, where, progress=lambda step, _: told.append(step), keep=tmp_path)
    assert told == [3, 4, 5]
    assert (again.digest, again.notes) == (whole.digest, whole.notes)
    with pytest.raises(BadInput, match="another training"):  # the same parameters, another target of the anchor
        method.fit(model, found.concept, [Site(1, "expert", 3)], keep=tmp_path)


@dataclass(frozen=True)
class _Stop:
    at: int

    def __call__(self, step: int, loss: float) -> None:
        if step == self.at:
            raise KeyboardInterrupt


def interrupt(step: int, loss: float) -> None:
    raise KeyboardInterrupt


def test_experts_of_two_layers_and_two_of_one(planted) -> None:
    model, found = planted
    before = copies(model)
    where = parse_sites(["L0.expert[1]", "L1.expert[2]", "L1.expert[0]"])
    edit = SingleExpert(**QUICK).fit(model, found.concept, where)
    with edit.on(model):
        slices = {name: rows for name, rows in moved(model, before).items() if ".experts." in name}
        assert {tuple(rows) for name, rows in slices.items() if ".layers.0." in name} == {(1,)}
        assert {tuple(rows) for name, rows in slices.items() if ".layers.1." in name} == {(0, 2)}
    assert edit.notes["experts"] == [str(site) for site in where]
    assert edit.notes["routing"]["forget"]["sent_to"].keys() == {str(site) for site in where}


def test_all_experts_of_the_layer_and_a_router_that_stays(planted, true_expert: Site) -> None:
    model, found = planted
    before, block = copies(model), f"model.layers.{true_expert.layer}.mlp"
    with SingleExpert(all_experts=True, **QUICK).fit(model, found.concept, [true_expert]).on(model):
        every = moved(model, before)
    assert every.pop(f"{block}.gate.weight")
    assert {name: rows for name, rows in every.items()} == {
        f"{block}.experts.{name}": [0, 1, 2, 3] for name in ("gate_up_proj", "down_proj")
    }
    edit = SingleExpert(train_router=False, **QUICK).fit(model, found.concept, [true_expert])
    plain = Npo(**QUICK).fit(model, found.concept, [true_expert])
    assert edit.digest == plain.digest  # nothing for the anchor to hold
    assert SingleExpert(train_router=False)._anchor(model, found.concept.forget, [true_expert]) is None


# ---- what it says


def test_the_notes_say_how_the_routing_moved(planted, true_expert: Site) -> None:
    model, found = planted
    edit = SingleExpert(steps=20, lr=3e-3, anchor=10).fit(model, found.concept)
    facts = found.concept.forget.facts
    batch = labelled(model.encode(facts))
    assert edit.notes["routing"].keys() == {"forget", "near"}
    said = edit.notes["routing"]["forget"]
    chosen = {}
    for state in ("before", "after"):
        if state == "after":
            with edit.on(model):
                chosen[state] = chosen_experts(model, batch)
        else:
            chosen[state] = chosen_experts(model, batch)
    by_layer = {}
    for layer in (0, 1, 2):
        pairs = zip(chosen["before"][layer], chosen["after"][layer], strict=True)
        shared = [len(set(a) & set(b)) / 2 for a, b in pairs]
        by_layer[f"L{layer}"] = sum(shared) / len(shared)
    assert said["overlap_by_layer"] == pytest.approx(by_layer)
    assert said["overlap"] == pytest.approx(sum(by_layer.values()) / 3)
    assert by_layer["L0"] == 1 and by_layer["L1"] < 1
    for state, experts in chosen.items():
        share = sum(true_expert.index in row for row in experts[1]) / len(experts[1])
        assert said["sent_to"][str(true_expert)][state] == pytest.approx(share)
    assert said["sent_to"][str(true_expert)]["after"] > said["sent_to"][str(true_expert)]["before"]
    assert edit.made_by["method"] == "interventions.single_expert:SingleExpert"
    assert edit.notes["where"] == [str(true_expert), f"L{true_expert.layer}.router"]
    assert len(edit.notes["losses"]) == 20 and "flattered" in edit.notes["retain"]


def chosen_experts(model: HookedModel, batch: dict[str, torch.Tensor]) -> dict[int, list[list[int]]]:
    """The two largest logits of every real token."""
    keep = batch["attention_mask"].bool()
    return {layer: logits_by_hand(model, layer, batch)[keep].topk(2).indices.tolist() for layer in (0, 1, 2)}


def test_a_concept_without_near_facts_says_nothing_of_them(planted) -> None:
    model, found = planted
    bare = found.concept.model_copy(update={"near": FactSet(name="none")})
    assert SingleExpert(steps=1).fit(model, bare).notes["routing"].keys() == {"forget"}


def test_an_edit_comes_back_from_disk(planted, tmp_path: Path) -> None:
    model, found = planted
    edit = SingleExpert(**QUICK).fit(model, found.concept)
    edit.save(tmp_path / "edit")
    back = load_edit(tmp_path / "edit")
    assert back.digest == edit.digest and back.notes == dict(edit.notes) and back.made_by == edit.made_by
    assert json.loads(json.dumps(edit.notes)) == edit.notes
    assert recalled(model, found.concept, back) == recalled(model, found.concept, edit)


# ---- controls


def test_controls_of_a_given_expert(planted, true_expert: Site) -> None:
    model, _ = planted
    method = SingleExpert(lr=1e-3)
    controls = method.controls(model, [true_expert], seed=1)
    assert list(controls) == ["random expert", "all experts", "last expert"]
    (drawn,) = controls["random expert"][1]
    assert drawn != true_expert and drawn in expert_sites(model) and controls["random expert"][0] == method
    assert controls["all experts"] == (method.model_copy(update={"all_experts": True}), [true_expert])
    assert controls["last expert"] == (method.model_copy(update={"rank": -1}), None)
    several = method.controls(model, parse_sites(["L0.expert[1]", "L1.expert[0]"]))
    assert list(several) == ["random expert", "all experts"] and len(several["random expert"][1]) == 2


@pytest.mark.parametrize("rank", [0, -1])
def test_controls_of_an_expert_it_chooses_are_others(planted, rank: int) -> None:
    model, _ = planted
    method, drawn = SingleExpert(rank=rank), set()
    for seed in range(30):
        controls = method.controls(model, None, seed)
        assert controls["random expert"][1] is None
        drawn.add(controls["random expert"][0].rank)
    assert drawn == set(range(12)) - {rank % 12}
    assert controls["last expert"][0].rank == -1 and controls["all experts"][0].all_experts


# ---- what it refuses


def test_a_dense_model_is_refused(planted) -> None:
    dense = plant("llama", 0)
    model = HookedModel(dense.model, dense.tokenizer, check=False)
    for where in (None, [Site(1, "expert", 0)]):
        with pytest.raises(BadInput, match=r"dense model.*mixture of experts.*L3\.mlp_out"):
            SingleExpert().fit(model, dense.concept, where)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ([], r"experts like L2\.expert\[5\], got no site"),
        ([Site(1, "mlp_act", 3, 0)], r"got L1\.e0\.mlp_act\[3\]"),
        ([Site(1, "expert")], r"got L1\.expert:"),
        ([Site(1, "router")], r"got L1\.router"),
        ([Site(1, "expert", 4)], "experts 0 to 3"),
        ([Site(7, "expert", 0)], "no mixture of experts"),
    ],
    ids=str,
)
def test_sites_that_are_no_experts_are_refused(planted, where: list[Site], message: str) -> None:
    model, found = planted
    with pytest.raises(BadInput, match=message):
        SingleExpert(steps=1).fit(model, found.concept, where)


@pytest.mark.parametrize(
    ("options", "where", "message"),
    [
        ({"rank": 12}, None, "12 experts: 0 is the best, -1 the last"),
        ({"rank": -13}, None, "12 experts"),
        ({"rank": 2}, [Site(1, "expert", 0)], "leave one of them out"),
        ({"loss": "concept_ablation"}, None, "no loss that could be trained in one expert; those have: .*npo"),
        ({"loss": "nqo"}, None, "Did you mean 'npo'"),
        ({"loss_options": {"steps": 3}}, None, "steps is an option of single_expert itself"),
        ({"loss_options": {"bta": 3}}, None, "no option 'bta'"),
    ],
    ids=str,
)
def test_options_that_do_not_go_together_are_refused(planted, options, where, message: str) -> None:
    model, found = planted
    with pytest.raises(BadInput, match=message):
        SingleExpert(**options).fit(model, found.concept, where)


def test_a_router_that_is_not_understood_needs_to_be_told(planted, monkeypatch) -> None:
    model, found = planted
    monkeypatch.setattr("interventions.single_expert.measured_router", lambda model, facts: None)
    with pytest.raises(BadInput, match=r"scores='softmax'.*anchor=0"):
        SingleExpert(**QUICK).fit(model, found.concept)
    for kind in ("softmax", "sigmoid"):
        made = SingleExpert(scores=kind)._anchor(model, found.concept.forget, [Site(1, "expert", 0)])
        assert made is not None and made.router == kind
    assert SingleExpert(anchor=0, **QUICK).fit(model, found.concept).changes
