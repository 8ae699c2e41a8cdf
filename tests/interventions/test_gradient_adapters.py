"""Gradient methods with low-rank adapters: what moves, what it is, what is left of it, and what is refused."""

from pathlib import Path

import pytest
import torch

from interventions import INTERVENTIONS
from interventions.gradient import descend
from interventions.gradient.fila import beginning, row_weights
from interventions.gradient.grad_ascent import GradAscent
from interventions.gradient.grad_diff import GradDiff
from interventions.gradient.l1_sparse import L1Sparse
from interventions.gradient.npo import Npo
from interventions.gradient.retain_finetune import RetainFinetune
from interventions.single_expert import SingleExpert
from tests import zoo
from tests.interventions.measuring import bits_of, recalled, same
from workbench.adapter_folder import write_adapter
from workbench.checkpoint import Checkpoint
from workbench.concepts import FactSet
from workbench.demo.planted import plant
from workbench.edits import WeightEdit, load_edit
from workbench.errors import BadInput
from workbench.fisher import answer_squares
from workbench.low_rank import linear_maps
from workbench.model import HookedModel
from workbench.sites import Site
from workbench.tokens import pad

BATCH = pad([[0, 5, 6, 7], [0, 9, 3]])
FORGETS = {"steps": 20, "lr": 5e-3, "adapter_rank": 4}
KINDS = ("lora", "fila")


@pytest.fixture(scope="module", params=["llama", "olmoe"])
def planted(request: pytest.FixtureRequest):
    found = plant(request.param, 0)
    return HookedModel(found.model, found.tokenizer, check=False), found


@pytest.fixture(scope="module")
def dense():
    found = plant("llama", 0)
    return HookedModel(found.model, found.tokenizer, check=False), found


@pytest.fixture(scope="module")
def mixture():
    found = plant("olmoe", 0)
    return HookedModel(found.model, found.tokenizer, check=False), found


def objects(model: HookedModel) -> list[object]:
    """Every module and parameter itself, its flags, and the keys of its modules."""
    return [
        *((name, id(module), sorted(vars(module)), module.training) for name, module in model.hf.named_modules()),
        *((name, id(p), p.requires_grad, p.grad) for name, p in model.hf.named_parameters()),
        sorted(vars(model.hf.config)),
    ]


def first(edit: WeightEdit) -> float:
    return edit.notes["losses"][0]


# ---- what it does


@pytest.mark.parametrize("kind", KINDS)
def test_it_forgets_by_the_linear_maps_alone_and_leaves_the_model(planted, kind: str) -> None:
    model, found = planted
    bits, held = bits_of(model), objects(model)
    edit = Npo(**FORGETS, adapter=kind).fit(model, found.concept)
    assert same(model, bits) and objects(model) == held
    assert set(edit.changes) == set(edit.low_rank) == {f"{p}.weight" for p in linear_maps(model, range(model.n_layers))}
    after = recalled(model, found, edit)
    assert after["forget"] < 0.2 and min(after["near"], after["far"]) > 0.8
    with edit.on(model):
        for name, tensor in model.hf.state_dict().items():
            assert torch.equal(tensor, bits[name]) == (name not in edit.changes)
    told = edit.notes["adapters"]
    assert (told["kind"], told["rank"], told["scale"]) == (kind, 4, 2.0)
    assert ("unreached" in told) == bool(model.mixture_layers)


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_loss_is_that_of_the_untouched_model(dense, kind: str) -> None:
    model, found = dense
    one = {"steps": 1, "lr": 1e-3}
    assert first(GradDiff(**one, adapter=kind).fit(model, found.concept)) == pytest.approx(
        first(GradDiff(**one).fit(model, found.concept)), rel=1e-5
    )


@pytest.mark.parametrize("name", ["llama", pytest.param("gpt2", marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KINDS)
def test_the_edited_weights_say_what_the_adapters_said_when_training_ended(name: str, kind: str, dense) -> None:
    """The loss of a further step is read before its update: it is that of the trained adapters."""
    _, found = dense
    model = dense[0] if name == "llama" else HookedModel(zoo.make(name), zoo.tokenizer(), check=False)
    for module in model.hf.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # so that two passes say the same
    options = {"lr": 1e-2, "adapter": kind, "adapter_rank": 3, "batch_size": 10, "retain": "none"}
    three = GradAscent(steps=3, **options).fit(model, found.concept)
    fourth = GradAscent(steps=4, **options).fit(model, found.concept).notes["losses"][3]
    with three.on(model):
        plain = GradAscent(steps=1, batch_size=10, retain="none").fit(model, found.concept)
    assert first(plain) == pytest.approx(fourth, rel=2e-4)
    assert abs(fourth - first(three)) > 0.01


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_fila_is_the_trained_adapter_less_what_it_began_with(dense, name: str) -> None:
    found = dense[1]
    model = dense[0] if name == "llama" else HookedModel(zoo.make(name), zoo.tokenizer(), check=False)
    method = GradDiff(steps=1, lr=1e-4, adapter="fila", adapter_rank=3, adapter_alpha=12.0)
    edit = method.fit(model, found.concept, [Site(1, "mlp_out")])
    assert len(edit.low_rank) == (3 if name == "llama" else 2)
    kept = found.concept.near.facts + found.concept.far.facts
    for name, change in edit.low_rank.items():
        assert change.scale == 4.0 and change.up.shape[1] == len(change.down) == 6
        mine, theirs = (
            answer_squares(model, facts, [name])[0][name] / len(facts) for facts in (found.concept.forget.facts, kept)
        )
        weight = model.parameter(name).detach()
        if change.transposed:
            weight, mine, theirs = weight.T, mine.T, theirs.T
        up, down = beginning(weight, row_weights(mine, theirs), 3, 4.0)
        torch.testing.assert_close(-change.up[:, 3:] @ change.down[3:], up @ down, rtol=1e-3, atol=1e-5)
        moved = (change.up[:, :3] + change.up[:, 3:]).abs().max(), (change.down[:3] - change.down[3:]).abs().max()
        assert 0.5e-4 < float(max(moved)) < 2e-4  # one update of AdamW


def test_lora_begins_at_random_of_the_seed_and_fila_where_the_facts_say(dense) -> None:
    model, found = dense
    for kind in KINDS:
        one, again, other = (
            GradDiff(steps=1, lr=1e-3, adapter=kind, seed=seed).fit(model, found.concept, [Site(1, "mlp_out")])
            for seed in (0, 0, 1)
        )
        assert one.digest == again.digest != other.digest
        name = "model.layers.1.mlp.up_proj.weight"
        begun, elsewhere = (e.low_rank[name].down[3 if kind == "fila" else 0 :] for e in (one, other))
        assert torch.allclose(begun, elsewhere, atol=3e-3) == (kind == "fila")


def test_with_full_rank_a_full_trainings_change_can_be_held(dense) -> None:
    """Learning what the same number of full updates learns; at rank one it does not get as far."""
    model, found = dense
    where, short = [Site(1, "mlp_out")], {"steps": 8, "retain_weight": 0.0}
    whole = GradAscent(**short, lr=1e-3).fit(model, found.concept, where)
    name = "model.layers.1.mlp.down_proj.weight"
    change = whole.changes[name].values - model.parameter(name).detach()
    left, values, right = torch.linalg.svd(change, full_matrices=False)
    full = min(change.shape)
    assert int((values > 1e-6 * values[0]).sum()) > 4  # more than a thin adapter holds
    edit = GradAscent(**short, lr=1e-2, adapter="lora", adapter_rank=full).fit(model, found.concept, where)
    product = edit.low_rank[name]
    assert torch.linalg.matrix_rank(product.added()) > 4
    held = product.__class__(left * values, right, 1.0, False)
    torch.testing.assert_close(held.added(), change, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("where", "inside"),
    [([Site(1, "mlp_out")], "layers.1.mlp."), ([Site(0, "attn_out")], "layers.0.self_attn.")],
    ids=str,
)
def test_only_the_maps_of_the_parts_named_move(dense, where, inside: str) -> None:
    model, found = dense
    edit = Npo(steps=2, lr=1e-2, adapter="lora").fit(model, found.concept, where)
    assert edit.changes and all(inside in name for name in edit.changes)
    assert len(edit.changes) == (3 if "mlp" in inside else 4)


def test_a_method_that_places_itself_does_so_with_adapters(dense) -> None:
    model, found = dense
    edit = RetainFinetune(steps=2, lr=1e-2, last=1, adapter="lora").fit(model, found.concept)
    assert edit.changes and all(".layers.2." in name for name in edit.changes)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sophia", "sophia_published", "bf16", "checkpointing", "accumulate", "kl"])
def test_the_other_options_go_together_with_adapters(dense, name: str) -> None:
    options = {
        "sophia": {"optimizer": "sophia"},
        "sophia_published": {"optimizer": "sophia", "sophia_published": True},
        "bf16": {"precision": "bf16"},
        "checkpointing": {"gradient_checkpointing": True},
        "accumulate": {"accumulate": 4},
        "kl": {"retain": "kl"},
    }[name]
    model, found = dense
    bits, held = bits_of(model), objects(model)
    edit = Npo(steps=2, lr=1e-3, adapter="lora", **options).fit(model, found.concept)
    assert edit.changes and same(model, bits) and objects(model) == held
    plain = Npo(steps=2, lr=1e-3, adapter="lora").fit(model, found.concept)
    assert first(edit) == pytest.approx(first(plain), rel=0.1 if name in ("bf16", "kl") else 1e-3)
    assert (edit.digest == plain.digest) == (name == "checkpointing")


def test_a_bfloat16_model_is_adapted_in_float32(dense) -> None:
    _, found = dense
    model = HookedModel(plant("llama", 0).model.to(torch.bfloat16), found.tokenizer, check=False)
    for kind in KINDS:
        bits = bits_of(model)
        edit = Npo(**FORGETS | {"steps": 8}, adapter=kind).fit(model, found.concept)
        assert same(model, bits)
        assert {t.dtype for t in edit.tensors().values()} == {torch.float32}
        assert edit.notes["losses"][-1] < 0.7 * edit.notes["losses"][0]


# ---- on disk


@pytest.mark.parametrize("kind", KINDS)
def test_checkpoint_and_adapter_folder_are_the_edited_model(planted, kind: str, tmp_path: Path) -> None:
    _, found = planted
    base = found.save(tmp_path / "base")
    with Checkpoint(base).open(check=False) as model:
        edit = Npo(steps=4, lr=1e-2, adapter=kind).fit(model, found.concept)
        edit.save(tmp_path / "edit")
        back = load_edit(tmp_path / "edit")
        assert isinstance(back, WeightEdit) and back.digest == edit.digest
        with torch.no_grad():
            before = model.run(BATCH).logits
            with back.on(model):
                edited = model.run(BATCH).logits
        merged = back.write(model, tmp_path / "merged")
        folder = write_adapter(back, model, tmp_path / "adapter")
    assert float((edited - before).abs().max()) > 0.1
    for made in (merged, Checkpoint(f"{base}+{folder}")):
        with made.open(check=False) as opened, torch.no_grad():
            torch.testing.assert_close(opened.run(BATCH).logits, edited, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fit_that_was_stopped_goes_on_to_the_same_bytes(dense, kind: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(descend, "KEEP_EVERY", 2)
    model, found = dense
    bits, held, where = bits_of(model), objects(model), [Site(1, "mlp_out")]
    method = GradDiff(steps=7, lr=1e-2, adapter=kind, adapter_rank=2, batch_size=4)
    whole = method.fit(model, found.concept, where)
    steps: list[int] = []

    def stop(step: int, _: float) -> None:
        steps.append(step)
        if steps == [1, 2, 3, 4, 5]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        method.fit(model, found.concept, where, progress=stop, keep=tmp_path)
    assert same(model, bits) and objects(model) == held
    again = method.fit(model, found.concept, where, progress=stop, keep=tmp_path)
    assert steps == [1, 2, 3, 4, 5, 5, 6, 7]
    assert again.digest == whole.digest and again.notes == whole.notes
    for other in ({"adapter_rank": 3}, {"adapter": "fila" if kind == "lora" else "lora"}, {"adapter_alpha": 1.0}):
        with pytest.raises(BadInput, match="holds another training"):
            method.model_copy(update=other).fit(model, found.concept, where, keep=tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_in_the_midst_leaves_the_model(dense, kind: str) -> None:
    model, found = dense
    bits, held = bits_of(model), objects(model)

    def fail(now: int, _: float) -> None:
        if now == 2:
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        GradDiff(steps=5, lr=1e-2, adapter=kind).fit(model, found.concept, progress=fail)
    assert same(model, bits) and objects(model) == held


# ---- what is refused


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"mask": "fisher"}, "give mask or adapter"),
        ({"adapter": "qlora"}, "'none', 'lora' or 'fila'"),
        ({"adapter_rank": 0}, "adapter_rank"),
        ({"adapter_alpha": 0}, "adapter_alpha"),
    ],
    ids=str,
)
def test_options_that_do_not_go_together_are_refused(options, match: str) -> None:
    with pytest.raises(BadInput, match=match):
        Npo(**{"adapter": "lora", **options})
    assert Npo(mask="fisher").adapter == "none"


def test_a_penalty_on_the_weights_themselves_is_refused() -> None:
    with pytest.raises(BadInput, match="leave adapter out"):
        L1Sparse(adapter="lora")


@pytest.mark.parametrize(
    ("where", "match"),
    [
        ([Site(1, "mlp_act", 3)], "single neurons and heads cannot be chosen"),
        ([Site(1, "head", 0)], "single neurons and heads cannot be chosen"),
    ],
    ids=str,
)
def test_parts_of_a_matrix_are_refused(dense, where, match: str) -> None:
    model, found = dense
    with pytest.raises(BadInput, match=match):
        Npo(steps=1, adapter="lora").fit(model, found.concept, where)


@pytest.mark.parametrize("site", ["L1.expert[3]", "L1.mlp_out", "L1.resid_post"])
def test_experts_that_are_named_are_refused_and_not_left_out_in_silence(mixture, site: str) -> None:
    model, found = mixture
    with pytest.raises(BadInput, match=r"experts\.gate_up_proj holds all experts.*adapter='none'"):
        Npo(steps=1, adapter="lora").fit(model, found.concept, [Site.parse(site)])
    assert Npo(steps=1, adapter="lora").fit(model, found.concept, [Site(1, "attn_out")]).changes


def test_a_router_has_no_adapter_and_a_borrowed_loss_cannot_bring_one_to_an_expert(mixture) -> None:
    model, found = mixture
    with pytest.raises(BadInput, match="there is none among model.layers.1.mlp.gate.weight"):
        Npo(steps=1, adapter="lora").fit(model, found.concept, [Site(1, "router")])
    with pytest.raises(BadInput, match="holds all experts"):
        SingleExpert(loss="simnpo", loss_options={"adapter": "lora"}, steps=1).fit(model, found.concept)


def test_fila_needs_facts_to_retain_and_a_rank_that_the_weights_have(dense) -> None:
    model, found = dense
    bits, held = bits_of(model), objects(model)
    empty = FactSet(name="none")
    bare = found.concept.model_copy(update={"near": empty, "far": empty, "retain": empty})
    alone = {"steps": 1, "retain": "none"}
    with pytest.raises(BadInput, match="nothing to retain.*adapter='lora'"):
        GradAscent(**alone, adapter="fila").fit(model, bare)
    assert GradAscent(**alone, adapter="lora").fit(model, bare).changes
    with pytest.raises(BadInput, match=r"has 48: lower adapter_rank"):
        GradAscent(**alone, adapter="fila", adapter_rank=49).fit(model, found.concept, [Site(1, "mlp_out")])
    assert GradAscent(**alone, adapter="lora", adapter_rank=49).fit(model, found.concept, [Site(1, "mlp_out")]).changes
    assert same(model, bits) and objects(model) == held


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(n for n in INTERVENTIONS if ".gradient." in INTERVENTIONS[n]))
def test_every_gradient_method_trains_adapters_or_says_why_not(dense, name: str) -> None:
    model, found = dense
    method, more = INTERVENTIONS.load(name), {"reinforce_steps": 1} if name == "whp" else {}
    if not method.adaptable:
        assert name == "l1_sparse"
        return
    edit = method(steps=1, lr=1e-2, adapter="lora", **more).fit(model, found.concept, [Site(1, "resid_post")])
    assert edit.low_rank and set(edit.low_rank) == set(edit.changes)
