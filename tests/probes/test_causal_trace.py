import numpy as np
import pytest
import torch

from probes.causal_trace import (
    EMBED,
    ROLES,
    CausalTrace,
    Cell,
    replacements,
    restored_logprobs,
    roles_of,
    subject_embeddings,
    window_layers,
)
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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_scores_equal_the_published_code(arch, kind, golden, golden_tensors, golden_models):
    record = golden[f"trace.rome.{arch}.{kind}"]
    published, tolerance = record["published"]["float32"], record["tolerance"]["float32"]
    model, (part, width) = golden_models["gpt2" if arch == "gpt2" else "llama_base"], KINDS[kind]
    prompt, (start, end) = golden_tensors["rome.input_ids"].tolist(), golden_tensors["rome.subject_range"].tolist()
    encoded = Encoded((*prompt, published["answer_id"]), len(prompt), tuple(range(start, end)))
    corrupted = (subject_embeddings(model, [encoded])[0] + golden_tensors[f"rome.{arch}.noise"]).float()
    cells = [Cell((), ()), Cell((EMBED,), encoded.subject)]
    cells += [
        Cell(tuple(Site(i, part) for i in window_layers(layer, width, model.n_layers)), (position,))
        for position in range(len(prompt))
        for layer in range(model.n_layers)
    ]
    low, high, *scores = restored_logprobs(model, encoded, corrupted, cells).exp().mean(dim=1).tolist()
    assert low == pytest.approx(published["low_score"], rel=tolerance["rtol"], abs=tolerance["atol"])
    assert high == pytest.approx(published["high_score"], rel=tolerance["rtol"], abs=tolerance["atol"])
    ours = np.array(scores).reshape(len(prompt), model.n_layers)
    assert np.allclose(ours, published["scores"], rtol=tolerance["rtol"], atol=tolerance["atol"])


def test_windows_are_those_of_the_code():
    assert list(window_layers(7, 10, 48)) == list(range(2, 12))  # l-5 .. l+4
    assert list(window_layers(7, 3, 48)) == [6, 7, 8]
    assert list(window_layers(7, 1, 48)) == [7]
    assert list(window_layers(0, 10, 3)) == [0, 1, 2]


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


@pytest.mark.parametrize("metric", ["probability", "logprob"])
@pytest.mark.parametrize("corruption", ["replace", "noise"])
def test_restoring_the_end_restores_everything(known, metric, corruption):
    trace = CausalTrace(metric=metric, corruption=corruption).look(known.model, known.concept.forget)
    end = trace.pick("site", "L2.resid_post").pick("role", "last prompt").values
    assert np.allclose(end, trace.notes["total_effect"], atol=1e-4)
    assert trace.notes["mean_total_effect"] > 0.9
    assert np.allclose(trace.notes["clean"], getattr(score(known.model, known.concept.forget.facts), metric), atol=1e-4)
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
        trace = CausalTrace(corruption=corruption).look(known.model, known.concept.never_taught)
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
        CausalTrace(corruption="noise", samples=3).look(golden_models["llama_base"], facts),
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
    for options in ({"window": 0}, {"parts": ("router",)}, {"samples": 0}, {"corruption": "swap"}):
        with pytest.raises(BadInput):
            CausalTrace(**options)
    with pytest.raises(BadInput, match="empty"):
        CausalTrace().look(dense.model, FactSet(name="none"))
    assert len(CausalTrace(max_facts=3).look(dense.model, dense.concept.forget).labels["fact"]) == 3
