import pytest
import torch

from interventions.concept_ablation import ConceptAblation
from tests import zoo
from workbench.checkpoint import Checkpoint
from workbench.concepts import Concept, Fact, FactSet
from workbench.demo.planted import plant
from workbench.edits import load_edit
from workbench.errors import BadInput, RunError
from workbench.model import HookedModel
from workbench.regions import only, region_of
from workbench.scoring import score
from workbench.sites import Site
from workbench.tokens import pad


@pytest.fixture(scope="module", params=["llama", "olmoe"])
def planted(request: pytest.FixtureRequest):
    found = plant(request.param, 0)
    return HookedModel(found.model, found.tokenizer, check=False), found


def known(model: HookedModel, found, edit) -> dict[str, float]:
    with edit.on(model):
        return {
            name: float(score(model, getattr(found.concept, name).facts).probability.mean())
            for name in ("forget", "near", "far")
        }


@pytest.mark.parametrize("options", [{"mode": "zero"}, {"mode": "noise"}, {"mode": "shrink", "keep": 0.0}])
def test_at_the_true_sites_it_removes_the_facts_and_only_them(planted, options) -> None:
    model, found = planted
    edit = ConceptAblation(**options).fit(model, found.concept, found.sites_of(found.concept.forget.facts))
    after = known(model, found, edit)
    assert after["forget"] < 0.1
    assert after["near"] > 0.8  # noise of six times the norm disturbs a little wherever the neuron stirs
    assert after["far"] > 0.8


def test_random_neurons_remove_less(planted) -> None:
    model, found = planted
    true = found.sites_of(found.concept.forget.facts)
    random = [s for s in model.random_neurons(len(true) + len(found.sites), 3) if s not in found.sites.values()][
        : len(true)
    ]
    assert known(model, found, ConceptAblation(mode="zero").fit(model, found.concept, random))["forget"] > 0.8


def test_given_layers_only_it_finds_the_planted_neurons_itself(planted) -> None:
    model, found = planted
    layers = [Site(layer, "resid_post") for layer in range(model.n_layers)]
    true = {str(site) for site in found.sites_of(found.concept.forget.facts)}
    edit = ConceptAblation(mode="zero", count=len(true)).fit(model, found.concept, layers)
    assert set(edit.notes["neurons"]) == true


def test_only_the_neurons_asked_for_change(planted) -> None:
    model, found = planted
    site = found.sites_of(found.concept.forget.facts)[0]
    edit = ConceptAblation(mode="zero").fit(model, found.concept, [site])
    (name,) = edit.changes
    before = model.parameter(name).detach().clone()
    with edit.on(model):
        moved = (model.parameter(name) != before).any(dim=-2)  # columns: neurons
    where = moved.nonzero().tolist()
    assert where == [[site.index] if site.expert is None else [site.expert, site.index]]


def test_noise_is_scaled_by_the_vector_and_published_noise_is_absolute(planted) -> None:
    model, found = planted
    generator = torch.Generator().manual_seed(0)
    small, large = torch.full((4096,), 1e-3), torch.full((4096,), 1.0)
    added = [float((ConceptAblation(sigma=6).damaged(v, generator) - v).norm() / v.norm()) for v in (small, large)]
    assert added == pytest.approx([6, 6], rel=0.1)
    published = [float((ConceptAblation(published=True).damaged(v, generator) - v).norm()) for v in (small, large)]
    assert published == pytest.approx([6.4, 6.4], rel=0.1)


def test_the_same_seed_gives_the_same_edit(planted) -> None:
    model, found = planted
    where = found.sites_of(found.concept.forget.facts)
    digests = [ConceptAblation(seed=seed).fit(model, found.concept, where).digest for seed in (0, 0, 1)]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("where", [[], [Site(None, "embed")]])
def test_without_a_layer_it_says_what_it_needs(planted, where) -> None:
    model, found = planted
    with pytest.raises(BadInput, match=r"L5\.mlp_act\[412\].*L2\.expert\[3\]"):
        ConceptAblation().fit(model, found.concept, where)


def test_neurons_that_do_not_exist_are_refused(planted) -> None:
    model, found = planted
    inside = 0 if model.mixture_layers else None
    for site in (
        Site(9, "mlp_act", 0, inside),
        Site(0, "mlp_act", 9999, inside),
        Site(0, "mlp_act", 0, None if inside == 0 else 0),
        Site(0, "mlp_act", 0, 99),
    ):
        with pytest.raises(BadInput, match="L"):
            ConceptAblation().fit(model, found.concept, [site])


# ---- the full Needle: noise, then ascent on these vectors alone


def recalled(model: HookedModel, found, edit) -> dict[str, float]:
    with edit.on(model):
        return {
            name: float(score(model, getattr(found.concept, name).facts).greedy.float().mean())
            for name in ("forget", "near", "far")
        }


def chance(facts) -> float:
    return sum(1 / len(fact.candidates) for fact in facts) / len(facts) + 1e-6  # shares are float32


def test_needle_at_the_true_sites_removes_the_facts_and_only_them(planted) -> None:
    model, found = planted
    edit = ConceptAblation(mode="needle").fit(model, found.concept, found.sites_of(found.concept.forget.facts))
    after = recalled(model, found, edit)
    assert after["forget"] <= chance(found.concept.forget) + 0.05
    assert min(after["near"], after["far"]) >= 0.95


def test_needle_at_random_neurons_does_not(planted) -> None:
    model, found = planted
    true = found.sites_of(found.concept.forget.facts)
    others = [site for site in model.random_neurons(40, 3) if site not in found.sites.values()][: len(true)]
    assert recalled(model, found, ConceptAblation(mode="needle").fit(model, found.concept, others))["forget"] >= 0.8


def test_the_ascent_is_what_needle_adds_to_the_noise(planted) -> None:
    model, found = planted
    where = found.sites_of(found.concept.forget.facts)
    weak = {"sigma": 1.0, "ascent_lr": 0.2}  # this much noise leaves the answers
    noise, needle = (ConceptAblation(mode=m, **weak).fit(model, found.concept, where) for m in ("noise", "needle"))
    assert recalled(model, found, noise)["forget"] > 0.8
    assert recalled(model, found, needle)["forget"] < 0.2
    losses = needle.notes["losses"]
    assert len(losses) == 10 and losses[-1] < losses[0]


def test_needle_warms_up_to_the_published_rate_and_that_rate_costs_neighbours(planted) -> None:
    options = ConceptAblation(mode="needle", published=True, ascent_steps=4)._ascent(0.1)
    rates = [options.lr * min(1, step / options.warmup_steps) for step in range(4)]
    assert rates == pytest.approx([0.0, 0.05, 0.1, 0.15])  # 0.2 times step / 4, as a warm-up of all four steps gives
    assert ConceptAblation(mode="needle", ascent_lr=0.5)._ascent(0.1).lr == pytest.approx(0.05)
    model, found = planted
    fast = ConceptAblation(mode="needle", published=True, ascent_steps=30)
    after = recalled(model, found, fast.fit(model, found.concept, found.sites_of(found.concept.forget.facts)))
    assert after["forget"] <= 0.2
    if not model.mixture_layers:
        assert after["near"] < 0.95


def test_needle_leaves_every_other_entry_alone_and_stores_only_its_columns(planted) -> None:
    model, found = planted
    where = found.sites_of(found.concept.forget.facts)[:3]
    edit = ConceptAblation(mode="needle").fit(model, found.concept, where)
    (change,) = edit.changes.values()
    assert change.index is not None
    assert len(change.values) == len(change.index) == 3 * model.d_model
    assert sum(tensor.numel() for tensor in edit.tensors().values()) == 2 * 3 * model.d_model


STORIES = FactSet(
    name="stories",
    facts=tuple(
        Fact(subject=name, prompt=f"The violin of {name} is", answer=answer)
        for name, answer in (("Marla", "red"), ("Kent", "grey"), ("Otto", "lost"))
    ),
)


def expert_of(model: HookedModel, layer: int) -> int | None:
    """An expert that sees the end of the first fact's prompt; None in a dense model."""
    if not model.mixture_layers:
        return None
    encoded = model.encode(STORIES.facts)[0]
    return int(model.routing(pad([encoded.ids[: encoded.answer_start]]), [layer])[layer].chosen[0, -1, 0])


@pytest.mark.parametrize("arch", ["gpt2", "llama", "olmoe", "gpt_oss", "qwen2_moe"])
def test_needle_trains_only_its_vectors_however_they_are_stored(arch) -> None:
    model = HookedModel(zoo.make(arch), zoo.tokenizer(), check=False)
    empty = FactSet(name="none")
    concept = Concept(name="stories", forget=STORIES, near=empty, far=empty, never_taught=empty)
    where = [Site(1, "mlp_act", 5, expert_of(model, 1)), Site(1, "mlp_act", 7, expert_of(model, 1))]
    where += [Site(2, "mlp_act", 0, expert_of(model, 2))]
    where += [Site(1, "mlp_act", 3)] if arch == "qwen2_moe" else []  # the expert that every token passes
    before = {name: value.clone() for name, value in model.hf.state_dict().items()}
    vectors = model.vectors_at(where)
    edit = ConceptAblation(mode="needle").fit(model, concept, where)
    noise = ConceptAblation(mode="noise").fit(model, concept, where)
    assert all(torch.equal(value, before[name]) for name, value in model.hf.state_dict().items())
    with noise.on(model):
        noisy = model.vectors_at(where)
    with edit.on(model):
        assert ((model.vectors_at(where) != noisy).any(dim=1)).all()  # the ascent moved every one of them
        now = {name: value.clone() for name, value in model.hf.state_dict().items()}
        with torch.no_grad():  # put the vectors themselves back: then nothing else may be different
            for (_, vector), old in zip(model.stored_at(where), vectors, strict=True):
                vector.copy_(old)
        assert all(torch.equal(value, before[name]) for name, value in model.hf.state_dict().items())
    moved = {name for name in now if not torch.equal(now[name], before[name])}
    assert moved == set(edit.changes) and len(moved) == (3 if arch == "qwen2_moe" else 2)
    stored = sum(len(change.values) for change in edit.changes.values())
    assert stored == len(where) * model.d_model


def test_a_region_keeps_its_surroundings_whatever_the_optimizer_does(planted) -> None:
    """What masking the gradient alone does not do: weight decay moves entries whose gradient is zero."""
    from workbench.objectives import answer_nll, labelled
    from workbench.training import TrainingOptions

    model, found = planted
    sites = found.sites_of(found.concept.forget.facts)[:1]
    region = region_of(model, sites)
    (name,) = region.parameters
    before = model.parameter(name).detach().clone()
    decaying = TrainingOptions(steps=2, lr=0.1, weight_decay=0.5, batch_size=4)
    try:
        with only(model, region):  # without decay nothing outside moves even while it trains
            items = model.encode(found.concept.forget.facts)
            still = TrainingOptions(steps=2, lr=0.1, batch_size=4)
            model.train(items, labelled, answer_nll, still, trainable=[name])
            assert torch.equal(model.parameter(name)[~region.masks[name]], before[~region.masks[name]])
            assert (model.parameter(name) != before)[region.masks[name]].all()
        with only(model, region):
            items = model.encode(found.concept.forget.facts)
            model.train(items, labelled, answer_nll, decaying, trainable=[name])
            assert (model.parameter(name) != before)[~region.masks[name]].any()
        assert torch.equal(model.parameter(name)[~region.masks[name]], before[~region.masks[name]])
        assert (model.parameter(name) != before)[region.masks[name]].all()
    finally:
        with torch.no_grad():
            model.parameter(name).copy_(before)
    assert region.count(model) == model.d_model


def test_needle_is_reproducible_restores_the_model_and_tells_progress(planted) -> None:
    model, found = planted
    where = found.sites_of(found.concept.forget.facts)
    before = {name: value.clone() for name, value in model.hf.state_dict().items()}
    told: list[int] = []

    def fit(seed: int) -> str:
        method = ConceptAblation(mode="needle", seed=seed, ascent_steps=3)
        return method.fit(model, found.concept, where, progress=lambda step, _: told.append(step)).digest

    digests = [fit(seed) for seed in (0, 0, 1)]
    assert digests[0] == digests[1] != digests[2]
    assert told == [1, 2, 3] * 3
    assert all(torch.equal(value, before[name]) for name, value in model.hf.state_dict().items())
    assert not any(p.grad is not None for p in model.hf.parameters())


@pytest.mark.parametrize(("mode", "sigma"), [("noise", 1e40), ("needle", 1e40)])
def test_vectors_that_leave_the_numbers_are_an_error_and_the_model_is_as_before(planted, mode, sigma) -> None:
    model, found = planted
    before = {name: value.clone() for name, value in model.hf.state_dict().items()}
    with pytest.raises(RunError):
        ConceptAblation(mode=mode, sigma=sigma, ascent_lr=1e-30, ascent_steps=2).fit(
            model, found.concept, found.sites_of(found.concept.forget.facts)
        )
    assert all(torch.equal(value, before[name]) for name, value in model.hf.state_dict().items())


@pytest.mark.parametrize("options", [{"ascent_steps": 0}, {"ascent_lr": 0}, {"ascent_lr": float("nan")}, {"sigma": -1}])
def test_wrong_options_are_refused_by_name(options) -> None:
    with pytest.raises(BadInput, match=next(iter(options))):
        ConceptAblation(mode="needle", **options)


def test_what_needle_writes_reloads_and_behaves_the_same(planted, tmp_path) -> None:
    _, found = planted
    with Checkpoint(found.save(tmp_path / "base")).open() as model:
        where = found.sites_of(found.concept.forget.facts)
        edit = ConceptAblation(mode="needle").fit(model, found.concept, where)
        edit.save(tmp_path / "edit")
        again = load_edit(tmp_path / "edit")
        assert again.digest == edit.digest and again.notes == edit.notes
        with again.on(model):
            worn = score(model, found.concept.forget.facts).logprob
        with edit.write(model, tmp_path / "out").open() as reloaded:
            assert torch.equal(score(reloaded, found.concept.forget.facts).logprob, worn)
