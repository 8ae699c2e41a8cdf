import pytest
import torch
from sklearn.linear_model import LogisticRegression

from interventions.projection_erasure import ProjectionErasure, answers_of
from tests import zoo
from tests.interventions.measuring import bits_of, chance, recalled, same
from workbench.checkpoint import Checkpoint
from workbench.concepts import Concept, Fact, FactSet
from workbench.demo.planted import plant
from workbench.edits import load_edit
from workbench.erasure import leace
from workbench.errors import BadInput, RunError
from workbench.model import HookedModel
from workbench.scoring import batch_of, score
from workbench.sites import Site
from workbench.sparing_erasure import between, sparing
from workbench.writers import everywhere, parts_of, writers_of, written

TRUE = [Site(1, "mlp_out")]
"""Where the planted models write the forget facts' answers (and those of the far facts, which are other words)."""


@pytest.fixture(scope="module", params=["llama", "olmoe"])
def planted(request: pytest.FixtureRequest):
    found = plant(request.param, 0)
    return HookedModel(found.model, found.tokenizer, check=False), found


def wordings(found) -> list[Fact]:
    return [*found.concept.forget.facts, *found.concept.forget.reworded("paraphrases")]


def read_linearly(states: torch.Tensor, labels: torch.Tensor) -> float:
    """Accuracy of a linear classifier on the very states it was fitted on."""
    states = (states - states.mean(dim=0)) / states.std()  # one scale for all: the solver's, not the states'
    reader = LogisticRegression(C=10.0, max_iter=500).fit(states.numpy(), labels.numpy())
    return float(reader.score(states.numpy(), labels.numpy()))


def entropy(labels: torch.Tensor) -> float:
    share = labels.bincount() / len(labels)
    return float(-(share[share > 0] * share[share > 0].log()).sum())


# ---- the guarantee


def test_what_the_part_writes_tells_a_linear_reader_nothing_and_did_before(planted) -> None:
    model, found = planted
    edit = ProjectionErasure().fit(model, found.concept, TRUE)
    encoded, labels = model.encode(wordings(found)), answers_of(wordings(found))
    answers = labels.argmax(dim=1)
    commonest = float(answers.bincount().max() / len(answers))
    before = written(model, TRUE[0], encoded, "subject")
    assert read_linearly(before, answers) == 1.0
    with edit.on(model):
        after = written(model, TRUE[0], encoded, "subject")
    assert read_linearly(after, answers) <= commonest + 0.05
    scale = before.std()
    assert (((after - after.mean(dim=0)).mT @ labels) / len(labels)).abs().max() < 1e-5 * scale
    (row,) = edit.notes["parts"]
    assert row["told_before"] > 0.9 > 1e-6 > row["told_after"]
    assert row["rank"] == labels.shape[1] - 1


def test_a_part_that_was_not_chosen_still_tells(planted) -> None:
    model, found = planted
    edit = ProjectionErasure().fit(model, found.concept, [Site(0, "mlp_out")])
    answers = answers_of(wordings(found)).argmax(dim=1)
    with edit.on(model):
        assert read_linearly(written(model, TRUE[0], model.encode(wordings(found)), "subject"), answers) == 1.0
    assert recalled(model, found, edit)["forget"] >= 0.95


def test_with_all_parts_the_whole_stream_at_the_prompt_end_tells_nothing(planted) -> None:
    model, found = planted
    facts = wordings(found)
    edit = ProjectionErasure(position="end").fit(model, found.concept)
    encoded, labels = model.encode(facts), answers_of(facts)
    batch, _ = batch_of(encoded)
    at = torch.tensor([e.answer_start - 1 for e in encoded])
    stream = [Site(layer, "resid_post") for layer in range(model.n_layers)]

    def told() -> list[float]:
        acts = model.run(batch, read=stream, logits=False).acts
        return [between(acts[site][torch.arange(len(at)), at].detach().double(), labels) for site in stream]

    assert min(told()) > 0.1
    with edit.on(model):
        assert max(told()) < 1e-6
    assert [row["part"] for row in edit.notes["parts"]] == [
        f"L{i}.{kind}" for i in range(3) for kind in ("attn_out", "mlp_out")
    ]


def test_at_the_subject_the_skip_connection_carries_the_name_past(planted) -> None:
    """The limit: with all parts erased at the subject, its own embedding still tells who is asked about."""
    model, found = planted
    facts = wordings(found)
    edit = ProjectionErasure().fit(model, found.concept)
    encoded, labels = model.encode(facts), answers_of(facts)
    batch, _ = batch_of(encoded)
    at, last = torch.tensor([e.subject[-1] for e in encoded]), Site(2, "resid_post")
    with edit.on(model):
        states = model.run(batch, read=[last], logits=False).acts[last][torch.arange(len(at)), at].detach().double()
    assert between(states, labels) > 0.1


# ---- planted truth


def test_where_the_facts_are_written_it_removes_them_and_only_them(planted) -> None:
    model, found = planted
    after = recalled(model, found, ProjectionErasure().fit(model, found.concept, TRUE))
    assert after["forget"] <= chance(found.concept.forget) + 0.05
    assert min(after["near"], after["far"]) >= 0.95


def test_plain_leace_wrecks_what_else_the_part_writes(planted) -> None:
    """Why others are spared: on the states it was fitted on LEACE is the smallest change, elsewhere it is not."""
    model, found = planted
    after = recalled(model, found, ProjectionErasure(spare=False).fit(model, found.concept, TRUE))
    assert after["forget"] <= chance(found.concept.forget) + 0.05
    assert min(after["near"], after["far"]) < 0.5


def test_near_facts_that_the_same_parts_write_fall_too(planted) -> None:
    """The limit: the near facts have the forget facts' answers, and a map of what is written knows no subject."""
    model, found = planted
    after = recalled(model, found, ProjectionErasure().fit(model, found.concept))
    assert after["forget"] < 0.3
    assert after["near"] < 0.95


@pytest.mark.parametrize(
    ("where", "parts"),
    [
        ([Site(2, "head", 1), Site(2, "attn_out")], ["L2.attn_out"]),
        ([Site(1, "resid_post")], ["L1.attn_out", "L1.mlp_out"]),
        ([Site(2, "mlp_out"), Site(0, "resid_pre")], ["L0.attn_out", "L0.mlp_out", "L2.mlp_out"]),
        ("neurons", ["L1.mlp_out"]),
    ],
    ids=str,
)
def test_any_site_stands_for_the_part_it_lies_in(planted, where, parts) -> None:
    model, found = planted
    sites = found.sites_of(found.concept.forget.facts) if where == "neurons" else where
    edit = ProjectionErasure(position="end", paraphrases=False).fit(model, found.concept, sites)
    assert [row["part"] for row in edit.notes["parts"]] == parts
    written_by = [w.name for part in parts_of(model, sites) for w in writers_of(model, part)]
    assert set(edit.changes) <= set(written_by)


def test_one_expert_stands_for_its_mixture() -> None:
    found = plant("olmoe", 0)
    model = HookedModel(found.model, found.tokenizer, check=False)
    whole, expert = (ProjectionErasure().fit(model, found.concept, w) for w in (TRUE, [Site(1, "expert", 2)]))
    assert whole.digest == expert.digest


# ---- every architecture


STORIES = FactSet(
    name="stories",
    facts=tuple(
        Fact(subject=name, prompt=f"The {thing} of {name} is", answer=answer)
        for name, answer in (("Marla", "red"), ("Kent", "grey"), ("Otto", "lost"))
        for thing in ("violin", "house")
    ),
)
NEIGHBOURS = FactSet(
    name="neighbours",
    facts=tuple(
        Fact(subject=name, prompt=f"The {thing} of {name} is", answer="old")
        for name in ("Ben", "Ruth", "Ida", "Tom")
        for thing in ("violin", "house", "harbour")
    ),
)
NORMED = ("gemma2", "gemma3", "olmo2")


@pytest.mark.parametrize("arch", [name for name in zoo.ARCHITECTURES if name not in NORMED])
def test_it_holds_however_a_part_stores_its_weights(arch) -> None:
    model = HookedModel(zoo.make(arch), zoo.tokenizer(), check=False)
    empty = FactSet(name="none")
    concept = Concept(name="stories", forget=STORIES, near=NEIGHBOURS, far=empty, never_taught=empty)
    edit = ProjectionErasure().fit(model, concept, [Site(1, "resid_post")])
    encoded, labels = model.encode(STORIES.facts), answers_of(STORIES.facts)
    means = {}
    for part in (Site(1, "attn_out"), Site(1, "mlp_out")):
        before = written(model, part, encoded, "subject")
        every = everywhere(model, part, model.encode([*STORIES, *NEIGHBOURS])).mean(dim=0)
        with edit.on(model):
            after = written(model, part, encoded, "subject")
            means[part] = everywhere(model, part, model.encode([*STORIES, *NEIGHBOURS])).mean(dim=0) - every
        assert between(before, labels) > 0.03 > 1e-6 > between(after, labels)
    drift = float(means[Site(1, "attn_out")].norm() / every.norm())
    if arch in ("gpt2", "gpt_neox", "phi", "gpt_oss"):
        assert drift < 1e-4  # a bias keeps the mean
    else:
        assert drift > 1e-3


@pytest.mark.parametrize("arch", NORMED)
def test_a_norm_behind_the_part_is_refused(arch) -> None:
    model = HookedModel(zoo.make(arch), zoo.tokenizer(), check=False)
    empty = FactSet(name="none")
    concept = Concept(name="stories", forget=STORIES, near=NEIGHBOURS, far=empty, never_taught=empty)
    for part in ("attn_out", "mlp_out"):
        with pytest.raises(BadInput, match=f"norm stands behind L1.{part}"):
            ProjectionErasure().fit(model, concept, [Site(1, part)])


# ---- the arithmetic


def telling(n: int, d: int = 10, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (n,), generator=generator)
    means = 2 * torch.randn(3, d, generator=generator)
    states = (torch.randn(n, d, generator=generator) + means[labels] + 1) * torch.logspace(0, -2, d)
    return states.double(), torch.nn.functional.one_hot(labels).double()


@pytest.mark.parametrize("affine", [True, False])
def test_sparing_erases_exactly_and_moves_the_others_less_than_any_other_way(affine) -> None:
    states, labels = telling(60)
    others = telling(400, seed=5)[0]
    eraser = sparing(states, labels, others, affine=affine, ridge=1e-9)
    centred = labels - labels.mean(dim=0)
    assert (eraser(states).mT @ centred).abs().max() < 1e-9
    assert (states.mT @ centred).abs().max() > 1
    assert int(eraser.rank) == 2

    def moved(other) -> float:
        return float((other(others) - others).square().sum())

    plain = leace(states, labels, affine=affine)
    assert moved(eraser) < moved(plain)
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):  # every other right inverse that erases as well moves the others more
        nudge = 0.01 * torch.randn(10, 2, generator=generator).double()
        nudge -= eraser.left @ (eraser.left.mT @ nudge)
        near = type(eraser)(eraser.left, eraser.right + nudge, eraser.mean)
        assert (near(states).mT @ centred).abs().max() < 1e-9
        assert moved(near) > moved(eraser)


def test_sparing_the_erased_states_themselves_is_leace() -> None:
    states, labels = telling(60)
    torch.testing.assert_close(
        sparing(states, labels, states, ridge=1e-9).matrix, leace(states, labels).matrix, rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize(("n", "m"), [(1, 5), (5, 0)])
def test_sparing_needs_states_and_others(n, m) -> None:
    with pytest.raises(BadInput, match="two states"):
        sparing(torch.randn(n, 4), torch.eye(5)[:n], torch.randn(m, 4))


def test_between_by_hand() -> None:
    labels = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    assert between(torch.tensor([[1.0], [1], [3], [3]]), labels) == pytest.approx(1)
    assert between(torch.tensor([[1.0], [3], [1], [3]]), labels) == pytest.approx(0)
    assert between(torch.tensor([[0.0], [2], [2], [4]]), labels) == pytest.approx(0.5)
    assert between(torch.ones(4, 1), labels) == 0


# ---- bad input


@pytest.mark.parametrize("where", [[], [Site(None, "embed")], [Site(1, "router")]], ids=str)
def test_sites_that_write_nothing_are_refused(planted, where) -> None:
    model, found = planted
    with pytest.raises(BadInput, match=r"L3\.mlp_out"):
        ProjectionErasure().fit(model, found.concept, where)


def test_layers_that_do_not_exist_are_refused(planted) -> None:
    model, found = planted
    with pytest.raises(BadInput, match="layers 0 to 2"):
        ProjectionErasure().fit(model, found.concept, [Site(9, "mlp_out")])


def test_a_single_answer_is_refused(planted) -> None:
    model, found = planted
    one = found.concept.model_copy(update={"forget": FactSet(name="one", facts=found.concept.forget.facts[:1])})
    with pytest.raises(BadInput, match="1 different answers"):
        ProjectionErasure().fit(model, one, TRUE)


def test_without_facts_to_spare_it_is_refused_unless_none_are_asked_for(planted) -> None:
    model, found = planted
    empty = FactSet(name="none")
    bare = found.concept.model_copy(update={"near": empty, "far": empty, "retain": empty})
    with pytest.raises(BadInput, match="spare=False"):
        ProjectionErasure().fit(model, bare, TRUE)
    assert ProjectionErasure(spare=False).fit(model, bare, TRUE).changes


def test_states_that_are_no_numbers_are_an_error_and_the_model_is_as_before(planted) -> None:
    model, found = planted
    weight = model.parameter("model.layers.0.self_attn.o_proj.weight")
    before = weight.detach().clone()
    with torch.no_grad():
        weight[0, 0] = torch.nan
    try:
        held = bits_of(model)
        with pytest.raises(RunError, match="not finite"):
            ProjectionErasure().fit(model, found.concept, TRUE)
        for name, value in model.hf.state_dict().items():
            assert torch.equal(value.nan_to_num(7), held[name].nan_to_num(7))
    finally:
        with torch.no_grad():
            weight.copy_(before)


@pytest.mark.parametrize("options", [{"position": "start"}, {"spare": "often"}, {"sparing": True}])
def test_wrong_options_are_refused_by_name(options) -> None:
    with pytest.raises(BadInput, match=next(iter(options))):
        ProjectionErasure(**options)


# ---- what every edit must keep


def test_it_is_reproducible_restores_the_model_and_tells_progress(planted) -> None:
    model, found = planted
    before = bits_of(model)
    told: list[int] = []
    where = [Site(1, "resid_post")]
    digests = [
        ProjectionErasure(position=at).fit(model, found.concept, where, progress=lambda i, _: told.append(i)).digest
        for at in ("subject", "subject", "end")
    ]
    assert digests[0] == digests[1] != digests[2]
    assert told == [1, 2] * 3
    assert same(model, before)


def test_what_it_writes_reloads_and_behaves_the_same(planted, tmp_path) -> None:
    _, found = planted
    with Checkpoint(found.save(tmp_path / "base")).open() as model:
        edit = ProjectionErasure().fit(model, found.concept, TRUE)
        edit.save(tmp_path / "edit")
        again = load_edit(tmp_path / "edit")
        assert again.digest == edit.digest and again.notes == edit.notes
        with again.on(model):
            worn = score(model, found.concept.near.facts).logprob
        with edit.write(model, tmp_path / "out").open() as reloaded:
            assert torch.equal(score(reloaded, found.concept.near.facts).logprob, worn)
