import json
from pathlib import Path

import numpy as np
import pytest
import torch

from interventions.concept_ablation import ConceptAblation
from probes.causal_trace import CausalTrace, largest_neurons
from probes.trace_cells import NOTHING, ROLES, Cell, patched, restored_logprobs, roles_of, window_layers
from probes.trace_corruption import (
    EMBED,
    NO_STAND_IN,
    NO_WRONG_ANSWER,
    UNANSWERED,
    Case,
    replacements,
    subject_embeddings,
)
from probes.trace_metrics import Closeness, LogitDifference, LogProbability, first_difference
from workbench.concepts import Fact, FactSet
from workbench.errors import BadInput
from workbench.scoring import score
from workbench.sites import Site
from workbench.tokens import Encoded

KINDS = {
    "states": ("resid_post", 1),
    "mlp_window2": ("mlp_out", 2),
    "mlp_window10": ("mlp_out", 10),
    "attn_window2": ("attn_out", 2),
    "attn_window10": ("attn_out", 10),
}


@pytest.fixture(scope="session")
def tracing() -> dict:
    path = Path(__file__).parents[1] / "golden" / "tracing.json"
    return {record["id"]: record for record in json.loads(path.read_text())["records"]}


def as_published(arch, answer, golden_tensors, golden_models):
    """The model, the fact and its stored noise, as the published code was run on them."""
    model = golden_models["gpt2" if arch == "gpt2" else "llama_base"]
    prompt, (start, end) = golden_tensors["rome.input_ids"].tolist(), golden_tensors["rome.subject_range"].tolist()
    encoded = Encoded((*prompt, answer), len(prompt), tuple(range(start, end)))
    return model, encoded, (subject_embeddings(model, [encoded])[0] + golden_tensors[f"rome.{arch}.noise"]).float()


def grid(prompt, model, part, width, centring="published") -> list[Cell]:
    return [
        Cell(tuple(Site(i, part) for i in window_layers(layer, width, model.n_layers, centring)), (position,))
        for position in range(prompt)
        for layer in range(model.n_layers)
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_scores_equal_the_published_code(arch, kind, golden, golden_tensors, golden_models):
    record = golden[f"trace.rome.{arch}.{kind}"]
    published, tolerance = record["published"]["float32"], record["tolerance"]["float32"]
    model, encoded, corrupted = as_published(arch, published["answer_id"], golden_tensors, golden_models)
    cells = [NOTHING, Cell((EMBED,), encoded.subject), *grid(encoded.answer_start, model, *KINDS[kind])]
    low, high, *scores = restored_logprobs(model, encoded, corrupted, cells).exp().mean(dim=1).tolist()
    assert low == pytest.approx(published["low_score"], rel=tolerance["rtol"], abs=tolerance["atol"])
    assert high == pytest.approx(published["high_score"], rel=tolerance["rtol"], abs=tolerance["atol"])
    ours = np.array(scores).reshape(encoded.answer_start, model.n_layers)
    assert np.allclose(ours, published["scores"], rtol=tolerance["rtol"], atol=tolerance["atol"])


@pytest.mark.parametrize("kind", ["mlp_window2", "attn_window2"])
@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_scores_of_the_paper_s_windows_equal_the_stored_ones(arch, kind, tracing, golden_tensors, golden_models):
    record = tracing[f"trace.rome.{arch}.{kind}"]
    paper, tolerance = record["variants"]["paper_window"]["value"], record["tolerance"]["float32"]
    model, encoded, corrupted = as_published(arch, paper["answer_id"], golden_tensors, golden_models)
    cells = grid(encoded.answer_start, model, *KINDS[kind], "paper")
    scores = restored_logprobs(model, encoded, corrupted, cells).exp().mean(dim=1).view(encoded.answer_start, -1)
    assert np.allclose(scores, paper["scores"], rtol=tolerance["rtol"], atol=tolerance["atol"])


@pytest.mark.parametrize("severed", ["mlp_out", "attn_out"])
@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_severed_scores_equal_the_published_code(arch, severed, tracing, golden_tensors, golden_models):
    record = tracing[f"trace.rome.{arch}.severed"]
    published, tolerance = record["published"]["float32"], record["tolerance"]["float32"]
    model, encoded, corrupted = as_published(arch, published["answer_id"], golden_tensors, golden_models)
    last, layers = published["token"], model.n_layers
    cells = [  # the published code holds all layers; up to the restored one that changes nothing
        Cell((Site(layer, "resid_post"),), (last,), tuple(Site(i, severed) for i in range(layer + 1, layers)))
        for layer in range(layers)
    ]
    scores = restored_logprobs(model, encoded, corrupted, cells).exp().mean(dim=1)
    stored = published[f"severed_{severed.removesuffix('_out')}"]
    assert np.allclose(scores, stored, rtol=tolerance["rtol"], atol=tolerance["atol"])
    everywhere = [Cell(c.sites, c.positions, tuple(Site(i, severed) for i in range(layers))) for c in cells]
    assert torch.allclose(restored_logprobs(model, encoded, corrupted, everywhere).exp().mean(dim=1), scores, atol=1e-6)
    open_scores = restored_logprobs(model, encoded, corrupted, [Cell(c.sites, c.positions) for c in cells]).exp()
    assert (open_scores.mean(dim=1) - scores)[:-1].abs().max() > 4e-4  # five tolerances: severing matters here


def test_windows_are_those_of_the_code():
    assert list(window_layers(7, 10, 48)) == list(range(2, 12))  # l-5 .. l+4
    assert list(window_layers(7, 3, 48)) == [6, 7, 8]
    assert list(window_layers(7, 1, 48)) == [7]
    assert list(window_layers(0, 10, 3)) == [0, 1, 2]


def test_windows_can_be_those_of_the_paper_or_symmetric():
    assert list(window_layers(7, 10, 48, "paper")) == list(range(3, 13))  # l-4 .. l+5
    assert list(window_layers(7, 10, 48, "symmetric")) == list(range(2, 13))  # l-5 .. l+5
    for centring in ("published", "paper", "symmetric"):
        assert list(window_layers(7, 3, 48, centring)) == [6, 7, 8]
        assert list(window_layers(7, 1, 48, centring)) == [7]


def test_batched_restorations_equal_single_ones(known, monkeypatch):
    model, facts = known.model, known.concept.forget
    encoded = model.encode(facts.facts)[8]  # an answer of two tokens
    corrupted = torch.stack(subject_embeddings(model, model.encode(facts.facts))[2:5:2])
    cells = [
        Cell((Site(layer, part),), positions)
        for layer in range(3)
        for part in ("resid_post", "mlp_out")
        for _, positions in roles_of(encoded)
    ]
    together = restored_logprobs(model, encoded, corrupted, cells)
    alone = [restored_logprobs(model, encoded, one[None], [cell]) for cell in cells for one in corrupted]
    assert torch.allclose(together, torch.cat(alone).reshape(len(cells), 2), atol=1e-5)
    assert together.std() > 1
    monkeypatch.setattr("workbench.patching.Budget.rows_for", lambda *_: 7)
    assert torch.allclose(restored_logprobs(model, encoded, corrupted, cells), together, atol=1e-5)


def test_replacing_is_asking_about_another(known):
    model, (fact, other) = known.model, (known.concept.forget.facts[i] for i in (8, 2))
    swapped = fact.prompt.replace(fact.subject, other.subject)
    asked = fact.model_copy(update={"prompt": swapped, "subject": other.subject})
    encoded, corrupted = model.encode([fact])[0], torch.stack(subject_embeddings(model, model.encode([other])))
    nothing, everything = restored_logprobs(model, encoded, corrupted, [Cell((), ()), Cell((EMBED,), encoded.subject)])
    assert nothing.item() == pytest.approx(score(model, [asked]).logprob.item(), abs=1e-4)
    assert everything.item() == pytest.approx(score(model, [fact]).logprob.item(), abs=1e-4)


@pytest.mark.parametrize("metric", ["probability", "logprob", "logit_difference", "kl"])
@pytest.mark.parametrize("corruption", ["replace", "noise"])
def test_restoring_the_end_restores_everything(known, metric, corruption):
    trace = CausalTrace(metric=metric, corruption=corruption).look(known.model, known.concept.forget)
    end = trace.pick("site", "L2.resid_post").pick("role", "last prompt").values
    assert np.allclose(end, trace.notes["total_effect"], atol=1e-4)
    assert trace.notes["mean_total_effect"] > 0.9
    if metric in ("probability", "logprob"):
        clean = getattr(score(known.model, known.concept.forget.facts), metric)
        assert np.allclose(trace.notes["clean"], clean, atol=1e-4)
    if metric == "kl":
        assert np.allclose(trace.notes["clean"], 0, atol=1e-5)
    normalised = CausalTrace(metric=metric, corruption=corruption, normalised=True)
    again = normalised.look(known.model, known.concept.forget).pick("site", "L2.resid_post").pick("role", "last prompt")
    assert again.values.mean() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("corruption", ["replace", "noise"])
def test_finds_the_planted_layer_at_the_subject(known, corruption):
    for facts, site in ((known.concept.forget, "L1.mlp_out"), (known.concept.near, "L0.mlp_out")):
        trace = CausalTrace(parts=("mlp_out",), corruption=corruption).look(known.model, facts)
        means = trace.mean("fact")
        best = np.unravel_index(np.nanargmax(means.values), means.values.shape)
        assert (means.labels["site"][best[0]], means.labels["role"][best[1]]) == (site, "last subject")
        # Noise stays in the stream beside what is restored, so it is restored in part.
        assert means.values[best] > {"replace": 0.9, "noise": 0.4}[corruption]
        assert np.nanmax(np.delete(means.values.flatten(), np.ravel_multi_index(best, means.values.shape))) < 0.1


def test_finds_nothing_that_was_never_taught(known):
    for corruption in ("replace", "noise"):
        trace = CausalTrace(corruption=corruption, unanswered="trace").look(known.model, known.concept.never_taught)
        assert trace.notes["not_traced"] == []
        assert np.nanmax(np.abs(trace.values)) < 0.1
        assert abs(trace.notes["mean_total_effect"]) < 0.05


def test_roles_absent_from_a_fact_are_not_zero(known):
    trace = CausalTrace().look(known.model, known.concept.forget)
    absent = [role for role in ROLES if np.isnan(trace.pick("role", role).values).all()]
    assert absent == ["first subject", "middle subject", "following"]  # names are one token, then "is", then the answer
    assert not np.isnan(trace.pick("role", "last subject").values).any()


def test_every_position_has_one_role():
    long = Encoded(tuple(range(12)), 9, (2, 3, 4, 5))
    assert roles_of(long) == [
        ("first subject", (2,)),
        ("middle subject", (3,)),
        ("middle subject", (4,)),
        ("last subject", (5,)),
        ("following", (6,)),
        ("following", (7,)),
        ("last prompt", (8, 9, 10)),
    ]
    assert roles_of(Encoded((1, 2, 3, 4), 3, (1, 2))) == [("first subject", (1,)), ("last prompt", (2,))]
    assert roles_of(Encoded((1, 2, 3, 4), 3, (1,))) == [("last subject", (1,)), ("last prompt", (2,))]


def test_means_over_the_positions_of_a_role(golden_models, golden_tensors, golden):
    words = golden_models["llama_base"].tokenizer.convert_ids_to_tokens(golden_tensors["rome.input_ids"].tolist())[1:]
    facts = FactSet(name="golden", facts=(Fact(subject=" ".join(words[:2]), prompt=" ".join(words), answer=words[0]),))
    model, trace = (
        golden_models["llama_base"],
        CausalTrace(corruption="noise", samples=3, unanswered="trace").look(golden_models["llama_base"], facts),
    )
    encoded = model.encode(facts.facts)[0]
    own = subject_embeddings(model, [encoded])[0]
    noise = torch.randn(3, 2, 48, generator=torch.Generator().manual_seed(0)) * 3.0 * own.std()
    following = [Cell((Site(1, "mlp_out"),), (p,)) for p in range(3, encoded.answer_start - 1)]
    probabilities = restored_logprobs(model, encoded, own + noise, [Cell((), ()), *following]).exp()
    low, *restored = probabilities.mean(dim=1).tolist()
    ours = trace.pick("site", "L1.mlp_out").pick("role", "following").values[0]
    assert len(following) > 1 and ours == pytest.approx(np.mean(restored) - low, abs=1e-6)


def test_windows_widen_components_and_not_the_stream(dense):
    facts = dense.concept.forget.take([0, 2], "two")
    one, wide = (
        CausalTrace(parts=("resid_post", "mlp_out"), samples=1, window=window).look(dense.model, facts)
        for window in (1, 3)
    )
    for layer in range(3):
        stream = [trace.pick("site", f"L{layer}.resid_post").values for trace in (one, wide)]
        assert np.allclose(*stream, atol=1e-6, equal_nan=True)
    beside = [trace.pick("site", "L0.mlp_out").pick("role", "last subject").values for trace in (one, wide)]
    assert (beside[0] < 0.1).all() and (beside[1] > 0.9).all()  # the planted layer 1 is in the window around layer 0


def test_noise_depends_on_its_seed_alone(dense):
    facts = dense.concept.forget.take([0, 1], "two")
    one, same, other = (
        CausalTrace(corruption="noise", noise_scale=1.0, seed=seed).look(dense.model, facts).values
        for seed in (0, 0, 1)
    )
    assert np.array_equal(one, same, equal_nan=True)
    assert not np.allclose(one, other, atol=1e-4, equal_nan=True)


def test_stand_ins_are_others_with_another_answer():
    def fact(subject: str, answer: str, relation: str = "colour") -> Fact:
        return Fact(subject=subject, prompt=f"The {relation} of {subject} is", answer=answer, relation=relation)

    facts = FactSet(
        name="f",
        facts=(
            fact("A", "red"),
            fact("B", "red"),
            fact("C", "blue"),
            fact("D d", "green"),
            fact("E", "plum", "fruit"),
            fact("C", "fig", "fruit"),
        ),
    )
    encoded = [Encoded((0, 1, 2, 3), 3, (1, 2) if " " in f.subject else (1,)) for f in facts]
    for seed in range(5):
        chosen = replacements(facts, encoded, 4, seed)
        # Not itself, not one with the same answer, not one of two tokens.
        assert {facts.facts[j].subject for j in chosen[0]} == {"C", "E"}
        assert chosen[0][0] == 2  # asked the same
        assert chosen[3] == []
        assert all(len(row) <= 1 for row in replacements(facts, encoded, 1, seed))


def test_a_fact_no_one_can_stand_in_for_is_not_read(dense):
    trace = CausalTrace().look(dense.model, dense.concept.forget.take([0], "one"))
    assert np.isnan(trace.values).all()
    assert trace.notes["not_traced"] == list(trace.labels["fact"]) and trace.notes["mean_total_effect"] is None


def test_refuses_what_it_cannot_do(dense):
    for options in (
        {"window": 0},
        {"parts": ("router",)},
        {"samples": 0},
        {"corruption": "swap"},
        {"metric": "accuracy"},
        {"severed": "head"},
        {"largest": -1},
        {"centring": "left"},
        {"min_probability": 1.0},
    ):
        with pytest.raises(BadInput):
            CausalTrace(**options)
    with pytest.raises(BadInput, match="empty"):
        CausalTrace().look(dense.model, FactSet(name="none"))
    assert len(CausalTrace(max_facts=3).look(dense.model, dense.concept.forget).labels["fact"]) == 3


# ---- heads, neurons, experts


def test_finds_the_planted_neurons(known):
    facts, truth = known.concept.forget, known.planted.sites_of(known.concept.forget.facts)
    trace = CausalTrace(parts=("mlp_act",), samples=1).look(known.model, facts)
    assert trace.top("site", 1) == [truth[0].whole]  # all neurons of the MLP, or of the expert
    assert trace.pick("site", str(truth[0].whole)).pick("role", "last subject").values.mean() > 0.9
    for f, site in enumerate(truth[:3]):
        others = [s for s in known.model.random_neurons(5, seed=f) if s not in truth]
        # The stand-in's own neuron still speaks, so the probability is shared; the logit difference is not.
        method = CausalTrace(parts=(), neurons=(str(site), *map(str, others)), samples=1, metric="logit_difference")
        one = method.look(known.model, facts)
        found = one.pick("role", "last subject").pick("fact", facts.labels[f])
        whole = np.array([label.startswith(str(site.whole)) for label in found.labels["site"]])
        assert found.values[whole] > 5 and (np.abs(found.values[~whole]) < 0.5).all()


def test_chosen_neurons_are_restored_together_and_named(known):
    facts = known.concept.forget
    truth = set(map(str, known.planted.sites_of(facts.facts)))
    everything = CausalTrace(parts=("mlp_out",), largest=len(truth), samples=1).look(known.model, facts)
    (name,) = everything.notes["neurons"]
    assert set(everything.notes["neurons"][name]) == truth and everything.notes["together"] is None
    group = everything.pick("site", name).pick("role", "last subject").values
    whole = everything.pick("site", "L1.mlp_out").pick("role", "last subject").values
    assert np.allclose(group, whole, atol=0.02) and (group > 0.9).all()
    near = known.planted.sites_of(known.concept.near.facts)[:2]
    both = CausalTrace(parts=(), neurons=(*sorted(truth), *map(str, near)), samples=1).look(known.model, facts)
    assert both.labels["site"] == (str(near[0].whole), name)
    assert set(both.notes["together"]["neurons"]) == truth | set(map(str, near))
    spans = both.notes["together"]["effect"]
    assert spans["last subject"]["mean"] == pytest.approx(group.mean(), abs=0.05)
    assert spans["first subject"] is None


def test_a_single_neuron_row_is_that_neuron(dense):
    neuron = dense.planted.sites_of(dense.concept.forget.facts)[0]
    trace = CausalTrace(parts=(), neurons=(str(neuron),), samples=1).look(dense.model, dense.concept.forget)
    assert trace.top("site", 1) == [neuron]


def test_heads_of_a_layer_add_up_to_its_attention_at_the_end(known):
    facts = known.concept.forget.take([0, 1, 2, 3], "four")
    trace = CausalTrace(parts=("attn_out", "head"), metric="logit_difference", samples=1).look(known.model, facts)
    at_end = trace.pick("role", "last prompt")
    heads = sum(at_end.pick("site", f"L2.head[{i}]").values for i in range(4))
    assert np.allclose(heads, at_end.pick("site", "L2.attn_out").values, rtol=0.15)
    assert (heads > 5).all()


def test_every_row_leads_an_intervention(known):
    trace = CausalTrace(parts=("resid_post", "head", "mlp_act"), largest=3).look(known.model, known.concept.forget)
    for site in trace.top("site", len(trace.labels["site"])):
        assert isinstance(site, Site) and str(site) in trace.labels["site"]
    where = CausalTrace(parts=(), largest=3).look(known.model, known.concept.forget).top("site", 3)
    before = score(known.model, known.concept.forget.facts).probability.mean()
    with ConceptAblation(mode="zero", count=10).fit(known.model, known.concept, where).on(known.model):
        assert score(known.model, known.concept.forget.facts).probability.mean() < 0.2 < before


def test_the_largest_neurons_are_those_that_speak_for_the_answers(known):
    truth = set(known.planted.sites_of(known.concept.forget.facts))
    assert set(largest_neurons(known.model, known.concept.forget.facts, len(truth))) == truth


# ---- severed paths, windows


def test_severed_paths_do_not_carry_what_later_layers_would_make_of_a_state(dense):
    def at(severed: str, site: str) -> np.ndarray:
        trace = CausalTrace(parts=("resid_post",), samples=1, severed=severed).look(dense.model, dense.concept.forget)
        return trace.pick("site", site).pick("role", "last subject").values

    # The subject leaves layer 0 as itself; only the MLP of layer 1 makes an answer of it, which attention carries on.
    assert (at("none", "L0.resid_post") > 0.9).all() and (at("mlp_out", "L0.resid_post") < 0.05).all()
    assert (at("attn_out", "L0.resid_post") > 0.9).all()  # attention at the subject itself adds nothing it needs
    assert np.allclose(at("none", "L1.resid_post"), at("mlp_out", "L1.resid_post"), atol=0.02)


def test_a_symmetric_window_reaches_both_sides(dense):
    facts = dense.concept.forget.take([0, 2], "two")

    def at(centring: str, layer: int) -> np.ndarray:
        trace = CausalTrace(parts=("mlp_out",), samples=1, window=2, centring=centring).look(dense.model, facts)
        return trace.pick("site", f"L{layer}.mlp_out").pick("role", "last subject").values

    for centring, reached in (("published", {1, 2}), ("paper", {0, 1}), ("symmetric", {0, 1, 2})):
        assert {layer for layer in range(3) if (at(centring, layer) > 0.9).all()} == reached  # layer 1 holds them


# ---- metrics


def test_metrics_are_what_they_say():
    logits = torch.randn(3, 2, 7, generator=torch.Generator().manual_seed(0))
    logprob = logits.log_softmax(-1)
    tokens = torch.tensor([4, 1])
    by_hand = logprob[:, 0, 4] + logprob[:, 1, 1]
    assert torch.allclose(LogProbability(tokens)(logits), by_hand)
    assert torch.allclose(LogProbability(tokens, True)(logits), by_hand.exp())
    assert torch.allclose(LogitDifference(1, 1, 5)(logits), logits[:, 1, 1] - logits[:, 1, 5])
    divergence = torch.nn.functional.kl_div(logprob, logprob[:1].expand_as(logprob), reduction="none", log_target=True)
    assert torch.allclose(Closeness(logprob[0])(logits), -divergence.sum(dim=(1, 2)), atol=1e-6)
    assert Closeness(logprob[0])(logits)[0].abs() < 1e-6 and (Closeness(logprob[0])(logits)[1:] < -0.1).all()


def test_a_logit_difference_is_taken_where_answers_part():
    assert first_difference((5, 6, 7), (5, 8)) == LogitDifference(1, 6, 8)
    assert first_difference((5,), (9, 9)) == LogitDifference(0, 5, 9)
    assert first_difference((5, 6), (5,)) is None and first_difference((5,), (5,)) is None


def test_the_wrong_answer_is_the_stand_in_s_and_else_a_distractor(dense):
    facts = dense.concept.forget
    method = CausalTrace(metric="logit_difference", samples=1)
    cases, why = method.cases(dense.model, facts)
    assert why == {} and len(cases) == len(facts)
    encoded = dense.model.encode(facts.facts)
    for case, (j,) in zip(cases, replacements(facts, encoded, 1, 0), strict=True):
        subject, relation = facts.facts[j].subject, facts.facts[case.number].relation
        there = [i for i, fact in enumerate(facts) if (fact.subject, fact.relation) == (subject, relation)]
        words = [encoded[i].answer for i in there] or [
            dense.model.encode([facts.facts[case.number].model_copy(update={"answer": word})])[0].answer
            for word in facts.facts[case.number].distractors
        ]
        assert case.measures[0] == next(d for word in words if (d := first_difference(case.encoded.answer, word)))
    bare = facts.model_copy(update={"facts": tuple(f.model_copy(update={"distractors": ()}) for f in facts)})
    noise = CausalTrace(metric="logit_difference", corruption="noise", samples=3)
    assert noise.cases(dense.model, bare)[1] == dict.fromkeys(range(len(bare)), NO_WRONG_ANSWER)
    kept, _ = noise.cases(dense.model, facts)
    assert all(len(case.measures) == 3 and len(set(case.measures)) == 1 for case in kept) and len(kept) == len(facts)


# ---- facts that are not traced, intervals


def test_unanswered_facts_are_left_out_and_counted(known):
    known_facts, unknown = known.concept.forget.facts, known.concept.never_taught.facts
    both = FactSet(name="both", facts=(*unknown[:2], *known_facts))
    trace = CausalTrace(parts=("mlp_out",), samples=1).look(known.model, both)
    assert trace.notes["not_traced"] == list(both.labels[:2]) and trace.notes["traced"] == len(known_facts)
    assert trace.notes["skipped"] == {UNANSWERED: 2}
    assert np.isnan(trace.values[..., :2]).all() and trace.notes["clean"][:2] == [None, None]
    anyway = CausalTrace(parts=("mlp_out",), samples=1, unanswered="trace").look(known.model, both)
    assert anyway.notes["not_traced"] == [] and anyway.notes["skipped"] == {}
    assert np.isfinite(anyway.pick("role", "last subject").values).all()
    assert np.allclose(anyway.values[..., 2:], trace.values[..., 2:], atol=1e-5, equal_nan=True)


def test_a_threshold_leaves_out_what_is_hardly_known(dense):
    facts = dense.concept.forget
    sure = score(dense.model, facts.facts).probability
    between = float(sure.sort().values[2:4].mean())
    trace = CausalTrace(parts=(), min_probability=between).look(dense.model, facts)
    assert trace.notes["skipped"] == {UNANSWERED: int((sure < between).sum())} and 0 < (sure < between).sum() < len(
        sure
    )


def test_nothing_to_trace_is_said_and_not_zero(dense):
    trace = CausalTrace(normalised=True).look(dense.model, dense.concept.never_taught)
    assert np.isnan(trace.values).all() and trace.notes["mean_total_effect"] is None
    assert trace.notes["total_effect_interval"] is None and trace.notes["traced"] == 0
    assert trace.notes["intervals"]["low"][0] == [None] * len(ROLES)
    one = CausalTrace().look(dense.model, dense.concept.forget.take([0], "one"))
    assert one.notes["skipped"] == {NO_STAND_IN: 1}


def test_intervals_hold_the_mean_and_resample_subjects(dense):
    trace = CausalTrace(parts=("mlp_out",), metric="logprob", samples=1).look(dense.model, dense.concept.forget)
    means, spans = trace.mean("fact").values, trace.notes["intervals"]
    role = list(ROLES).index("last subject")
    for i in range(3):
        assert spans["low"][i][role] <= means[i, role] <= spans["high"][i][role]
        assert spans["n"][i][role] == len(dense.concept.forget)
    assert spans["low"][1][role] > 0.5 and spans["low"][1][role] < spans["high"][1][role]
    assert spans["low"][1][0] is None  # names are one token here, so nothing is a first of several
    total = trace.notes["total_effect_interval"]
    assert total["mean"] == pytest.approx(trace.notes["mean_total_effect"])
    assert total["clusters"] == len(set(dense.concept.forget.subjects))


def test_nothing_restored_is_the_corrupted_run_and_everything_the_clean_one(known):
    model, facts = known.model, known.concept.forget
    for metric in ("probability", "logit_difference", "kl"):
        for case in CausalTrace(metric=metric).cases(model, facts)[0][:3]:
            every = Cell(tuple(Site(layer, "resid_post") for layer in range(3)), tuple(range(len(case.encoded.ids))))
            none, all_of_it, only_embed = patched(model, case, [NOTHING, every, Cell((EMBED,), case.encoded.subject)])
            assert torch.allclose(all_of_it, only_embed, atol=1e-4) and (all_of_it - none).abs().min() > 0.5
            spoiled = patched(model, case, [NOTHING, Cell((EMBED,), case.encoded.subject)], into="clean")
            assert torch.allclose(spoiled[0], all_of_it, atol=1e-4) and torch.allclose(spoiled[1], none, atol=1e-4)


def test_a_case_says_which_positions_predict_the_answer():
    assert Case(0, Encoded((1, 2, 3, 4, 5), 3, (1,)), torch.zeros(1, 1, 4), ()).kept == [2, 3]


def test_refuses_neurons_it_does_not_have_and_two_ways_of_choosing(dense):
    for options, message in (
        ({"neurons": ("L1.mlp_act[3]",), "largest": 2}, "give one"),
        ({"neurons": ("L1.mlp_act[4800]",)}, "not a value vector"),
        ({"neurons": ("L1.mlp_out",)}, "not a value vector"),
        ({"neurons": ("layer 3",)}, "not a site"),
    ):
        with pytest.raises(BadInput, match=message):
            CausalTrace(**options).look(dense.model, dense.concept.forget)
