"""CRISP: the salient features are those that were written, they fall silent, their facts go and the rest stays.

The autoencoder is written by hand, one feature a word, at the output of layer 0: the neurons that hold the forget facts
stand in layer 1 and fire on the subject's word.
"""

from pathlib import Path

import pytest
import torch

sae_lens = pytest.importorskip("sae_lens")

from interventions.chosen_features import Chosen, firing  # noqa: E402
from interventions.crisp import Crisp  # noqa: E402
from interventions.silencing import Silencing, with_firing  # noqa: E402
from interventions.state_pairs import Pair, collate_for, stored  # noqa: E402
from interventions.suppression_loss import Firing, salient, suppression_loss  # noqa: E402
from tests.interventions.handmade_saes import save_sae, token  # noqa: E402
from workbench.checkpoint import Checkpoint  # noqa: E402
from workbench.concepts import FactSet  # noqa: E402
from workbench.demo.planted import plant  # noqa: E402
from workbench.demo.planted_facts import RELATIONS, SUBJECTS  # noqa: E402
from workbench.edits import load_edit  # noqa: E402
from workbench.errors import BadInput  # noqa: E402
from workbench.fitted_sae import FittedSae, ThroughSae  # noqa: E402
from workbench.model import HookedModel  # noqa: E402
from workbench.sae_training import train_sae  # noqa: E402
from workbench.saes import SaeOptions, dictionary_of, fit_sae, load_sae  # noqa: E402
from workbench.scoring import score  # noqa: E402
from workbench.sites import Site, parse_sites  # noqa: E402

PLACE = Site(0, "resid_post")
WORDS = [*SUBJECTS["forget"], *SUBJECTS["near"], "France", "hot", *RELATIONS, "is"]
"""Word of every feature; the first four are the subjects to forget."""
QUICK = {"steps": 60, "lr": 1e-2, "dropout": 0.0, "batch_size": 16, "strength": 3.0}


def words_at(model: HookedModel, folder: Path, site: str = "L0.resid_post") -> str:
    """An SAE whose feature i fires on word i."""
    table = model.hf.get_input_embeddings().weight.detach().float()
    ids = [token(model, word) for word in WORDS]
    detectors = 20 * torch.linalg.pinv(table)[:, ids]  # CRISP's ratio adds 1 to a sum of activations
    return save_sae(folder, site, detectors, table[ids] / 20, bias=-(table @ detectors).topk(2, dim=0).values.mean(0))


@pytest.fixture(scope="module", params=["llama", "olmoe"])
def taught(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    found = plant(request.param, 0)
    model = HookedModel(found.model, found.tokenizer, check=False)
    return model, found.concept, words_at(model, tmp_path_factory.mktemp("saes") / request.param)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory):
    found = plant("llama", 0)
    model = HookedModel(found.model, found.tokenizer, check=False)
    return model, found.concept, words_at(model, tmp_path_factory.mktemp("saes") / "hand")


def scores(model: HookedModel, concept, edit) -> dict[str, tuple[float, float]]:
    """Accuracy and mean probability of every set."""
    with edit.on(model):
        found = {name: score(model, getattr(concept, name).facts) for name in ("forget", "near", "far")}
    return {name: (float(s.greedy.float().mean()), float(s.probability.mean())) for name, s in found.items()}


# ---- the choice and the loss, by hand


def counts(count: list[float], total: list[float], tokens: int) -> Firing:
    return Firing(torch.tensor(count).double(), torch.tensor(total).double(), tokens)


def test_salient_features_by_hand() -> None:
    #                feature:   0     1     2     3    4
    target = counts([10.0, 8.0, 9.0, 2.0, 0.0], [30.0, 24.0, 9.0, 3.0, 0.0], 20)
    benign = counts([2.0, 0.0, 0.0, 2.0, 5.0], [9.0, 0.0, 2.5, 0.0, 9.0], 20)
    # differences 8, 8, 9, 0, -5; ratios 30/10, 24/1, 9/3.5, 3/1, 0: feature 3 does not fire more often
    assert salient(target, benign, 10, 3.0) == [0, 1]
    assert salient(target, benign, 10, 3.1) == [1]
    assert salient(target, benign, 10, 2.5) == [2, 0, 1]
    assert salient(target, benign, 1, 2.5) == [2]


def test_counts_are_rescaled_to_one_size_unless_published() -> None:
    target, benign = counts([6.0, 6.0], [60.0, 60.0], 10), counts([12.0, 60.0], [12.0, 12.0], 100)
    assert salient(target, benign, 5, 3.0) == [0]  # 1.2 and 6 benign tokens in ten
    assert salient(target, benign, 5, 3.0, rescale=False) == []
    few = counts([2.0, 0.0], [3.0, 0.0], 5)
    assert salient(target, few, 5, 3.0) == [1, 0] == salient(target, few, 5, 3.0, rescale=False)
    assert salient(target, few, 5, 9.0) == [1]  # 60 / (2 * 3 + 1) = 8.6, but 60 / (3 + 1) = 15
    assert salient(target, few, 5, 9.0, rescale=False) == [1, 0]


def test_the_suppression_loss_by_hand() -> None:
    before = torch.tensor([[2.0, -1.0], [0.5, -9.0], [-1.0, 3.0]], requires_grad=True)
    level = torch.tensor([0.5, -1.0, 4.0])
    fired = torch.tensor([[True, True], [True, True], [False, False]])
    on, floor = before.detach() > 0, torch.zeros(2)
    # raised by |2 * level| where it fired: [3, 0], [2.5, -7], [-1, 3]: counted 3, 2.5 and 3
    value = suppression_loss(before, level, fired, on, floor, 2.0)
    value.backward()
    assert float(value.detach()) == pytest.approx((3 + 2.5 + 3) / 3)
    assert torch.allclose(before.grad, torch.tensor([[1.0, 0], [1, 0], [0, 1]]) / 3)
    with torch.no_grad():
        assert float(suppression_loss(before, level, fired, on, floor, 0.0)) == pytest.approx((2 + 0.5 + 3) / 3)
        assert float(suppression_loss(before, level, fired, on, torch.tensor([2.6, 3.0]), 2.0)) == pytest.approx(3)
        assert float(suppression_loss(before - 99, level, fired, before > 99, floor, 2.0)) == 0


def test_a_feature_that_went_off_keeps_a_gradient() -> None:
    before = torch.tensor([[-1.0]], requires_grad=True)
    level, off, floor = torch.tensor([-0.2]), torch.tensor([[False]]), torch.zeros(1)
    suppression_loss(before, level, torch.tensor([[True]]), off, floor, 30.0).backward()
    assert before.grad.tolist() == [[1.0]]
    before.grad = None
    suppression_loss(before, level, off, off, floor, 30.0).backward()
    assert before.grad.tolist() == [[0.0]]


@pytest.mark.parametrize("kind", ["standard", "jumprelu", "topk", "batchtopk"])
def test_pre_activations_are_those_of_the_autoencoder(kind: str, tmp_path: Path) -> None:
    data = torch.randn(64, 6, generator=torch.Generator().manual_seed(1))

    def endless():
        while True:
            yield data

    fit_sae(endless(), 6, SaeOptions(kind=kind, steps=5, k=3, batch_size=32), tmp_path)
    sae = load_sae(tmp_path)
    chosen = Chosen(FittedSae(str(tmp_path), None, Site(0, "resid_post"), dictionary_of(sae)), (3, 7, 20))
    with torch.no_grad():
        active, before, level = sae.encode(data), chosen.before(data), chosen.level(data)
    on = chosen.on(data)
    assert torch.equal(on, active[:, [3, 7, 20]] > 0) and on.any() and not on.all()
    assert torch.allclose(before[on], active[:, [3, 7, 20]][on], atol=1e-5)
    every = Chosen(chosen.sae, tuple(range(24))).before(data)
    assert torch.allclose(level, every.mean(dim=1), atol=1e-5)
    if kind != "topk":
        assert ((before > chosen.floor) == on).all()


# ---- what it does to a model


def test_the_salient_features_are_the_subjects_words_and_their_facts_go(taught) -> None:
    model, concept, sae = taught
    edit = Crisp(sae=sae, **QUICK).fit(model, concept)
    found = edit.notes["features"]["L0.resid_post"]
    assert {WORDS[i] for i in found["numbers"]} == {*SUBJECTS["forget"], "friend"}  # nobody else is asked for a friend
    assert min(found["before"]) > 1 and max(found["after"]) < 0.1 * min(found["before"])
    after = scores(model, concept, edit)
    assert after["forget"][0] <= 1 / 8 + 0.05
    assert min(after["near"][0], after["far"][0]) >= 0.95
    assert all(name.startswith("model.layers.0.") for name in edit.changes)
    assert edit.notes["adapters"]["rank"] == 4 and edit.notes["adapters"]["alpha"] == 8


def test_other_features_do_not_take_the_facts_with_them(dense) -> None:
    model, concept, sae = dense
    control, where = Crisp(sae=sae, **QUICK).controls(model, None)["random features"]
    edit = control.fit(model, concept, where)
    numbers = edit.notes["features"]["L0.resid_post"]["numbers"]
    assert numbers and not {WORDS[i] for i in numbers} & set(SUBJECTS["forget"])
    assert scores(model, concept, edit)["forget"][0] > 0.8


def test_in_a_mixture_the_experts_are_not_reached_and_it_is_said(taught) -> None:
    model, concept, sae = taught
    edit = Crisp(sae=sae, steps=2, lr=1e-3, layers=(0, 1)).fit(model, concept)
    parts = {name.split(".")[3] for name in edit.changes}
    if model.mixture_layers:
        assert parts == {"self_attn"} and edit.notes["unreached"].startswith("the experts of 3 mixtures")
    else:
        assert parts == {"self_attn", "mlp"} and edit.notes["unreached"] == ""


def test_weights_of_the_terms(dense) -> None:
    model, concept, sae = dense
    used = ThroughSae(sae=sae).fitted(model, [], [])
    silenced = [Chosen(used, (0, 1, 2, 3))]
    loss = Silencing(model, silenced, 0.0, 0.75, 0.5)
    told = with_firing(model, concept.forget.facts, silenced)
    kept = stored(model, concept.near.facts, loss.kept)
    batch = collate_for(model)([Pair(a, b) for a, b in zip(told, kept, strict=False)])
    with torch.no_grad():
        at_start = float(loss(model.hf, batch))
        active = firing(model, used, concept.forget.facts[: len(kept)])
        mean = float(active.total[:4].sum() / active.count[:4].sum())
        assert at_start == pytest.approx(0.25 * mean, rel=1e-4)
        batch["retain.L0.resid_post"] = batch["retain.L0.resid_post"] + 2.0
        assert float(loss(model.hf, batch)) - at_start == pytest.approx(0.75 * 4.0, rel=1e-4)
        batch["retain.L2.resid_post"] = -batch["retain.L2.resid_post"]
        # after the final norm a state has mean square 1, so the opposite of one is 4 away
        assert float(loss(model.hf, batch)) - at_start == pytest.approx(0.75 * (4.0 + 0.5 * 4.0), rel=1e-2)
    assert Silencing(model, silenced, 0.0, 0.75, 0.0).kept == [PLACE]


def test_nothing_of_peft_is_left_and_the_same_seed_gives_the_same_bytes(taught) -> None:
    model, concept, sae = taught

    def state() -> list[object]:
        return [
            *((name, id(module), sorted(vars(module)), module.training) for name, module in model.hf.named_modules()),
            *((name, id(p), p.requires_grad, p.grad) for name, p in model.hf.named_parameters()),
        ]

    before, bits = state(), {name: value.clone() for name, value in model.hf.state_dict().items()}
    options = QUICK | {"steps": 3, "dropout": 0.2}
    digests = [Crisp(sae=sae, **options, seed=seed).fit(model, concept).digest for seed in (0, 0, 1)]
    assert state() == before
    assert all(torch.equal(value, bits[name]) for name, value in model.hf.state_dict().items())
    assert digests[0] == digests[1] != digests[2]


def test_the_model_is_as_before_after_an_error(dense) -> None:
    model, concept, sae = dense
    bits, modules = {n: v.clone() for n, v in model.hf.state_dict().items()}, list(map(id, model.hf.modules()))

    def stop(step: int, _: float) -> None:
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Crisp(sae=sae, **QUICK).fit(model, concept, progress=stop)
    assert list(map(id, model.hf.modules())) == modules
    assert list(model.hf.state_dict()) == list(bits)
    assert all(torch.equal(value, bits[name]) for name, value in model.hf.state_dict().items())


def test_edit_is_saved_and_the_checkpoint_reloads_equal(planted_folder: Path, planted, tmp_path: Path) -> None:
    model = Checkpoint(planted_folder).open(check=False)
    edit = Crisp(sae=words_at(model, tmp_path / "sae"), steps=3, lr=1e-2).fit(model, planted.concept)
    edit.save(tmp_path / "edit")
    assert load_edit(tmp_path / "edit").digest == edit.digest
    with edit.on(model):
        wanted = {name: value.clone() for name, value in model.hf.state_dict().items()}
    edit.write(model, tmp_path / "written")
    again = Checkpoint(tmp_path / "written").open(check=False)
    assert list(again.hf.state_dict()) == list(wanted)
    assert all(torch.equal(value, wanted[name]) for name, value in again.hf.state_dict().items())
    assert not (tmp_path / "written" / "adapter_config.json").exists()


def test_an_autoencoder_is_trained_where_none_is_given(dense) -> None:
    model, concept, _ = dense
    edit = Crisp(sae_steps=150, width=2, **QUICK | {"steps": 2}).fit(model, concept, [PLACE])
    facts = [*concept.forget, *concept.near, *concept.far]
    options = SaeOptions(width=2, steps=150)
    folder = train_sae(model, PLACE, facts=facts, texts=concept.text, options=options)
    assert edit.notes["saes"]["L0.resid_post"]["path"] == str(folder)
    assert edit.notes["features"]["L0.resid_post"]["numbers"]


def test_several_sites_have_an_autoencoder_each(dense, tmp_path: Path) -> None:
    model, concept, sae = dense
    second = words_at(model, tmp_path / "second", "L1.resid_pre")
    sites = parse_sites(["L0.resid_post", "L1.resid_pre"])
    edit = Crisp(sae=(sae, second), **QUICK | {"steps": 2}).fit(model, concept, sites)
    assert list(edit.notes["features"]) == ["L0.resid_post", "L1.resid_pre"]
    assert {int(name.split(".")[2]) for name in edit.changes} == {0, 1}
    with pytest.raises(BadInput, match="2 SAEs for 1 sites"):
        Crisp(sae=(sae, second)).fit(model, concept, sites[:1])
    with pytest.raises(BadInput, match="sae_id 1"):
        Crisp(sae=(sae, second), sae_id="x").fit(model, concept, sites)


def test_an_autoencoder_that_does_not_fit_is_refused(dense, tmp_path: Path) -> None:
    model, concept, sae = dense
    narrow = save_sae(tmp_path / "narrow", "L0.resid_post", torch.ones(5, 3), torch.ones(3, 5))
    with pytest.raises(BadInput, match="reads 5 numbers a token, but L0.resid_post of model has 128"):
        Crisp(sae=narrow).fit(model, concept)
    with pytest.raises(BadInput, match="was made at L0.resid_post, not at L2.resid_post"):
        Crisp(sae=sae).fit(model, concept, [Site(2, "resid_post")])
    assert Crisp(sae=sae, anyway=True, steps=1).fit(model, concept, [Site(0, "resid_mid")]).made_by["anyway"]
    with pytest.raises(BadInput, match="no SAE folder"):
        Crisp(sae=str(tmp_path / "none")).fit(model, concept)


def test_no_salient_feature_is_refused(dense) -> None:
    model, concept, sae = dense
    with pytest.raises(BadInput, match="No feature at L0.resid_post fires 1e\\+06 times as strongly"):
        Crisp(sae=sae, ratio=1e6).fit(model, concept)


@pytest.mark.parametrize("where", ["embed", "L0.mlp_act[3]", "L7.resid_post"])
def test_wrong_sites_are_refused(dense, where: str) -> None:
    model, concept, _ = dense
    with pytest.raises(BadInput, match=where.replace("[", "\\[")):
        Crisp(sae_steps=1).fit(model, concept, [Site.parse(where)])


@pytest.mark.parametrize("layers", [(5,), (-1,), ()])
def test_wrong_layers_are_refused(dense, layers: tuple[int, ...]) -> None:
    model, concept, sae = dense
    with pytest.raises(BadInput, match="layers 0 to 2|no plain linear map"):
        Crisp(sae=sae, layers=layers).fit(model, concept)


def test_nothing_to_retain_is_refused(dense) -> None:
    model, concept, sae = dense
    empty = FactSet(name="none")
    bare = concept.model_copy(update={"near": empty, "far": empty, "retain": empty})
    with pytest.raises(BadInput, match="nothing to retain: add some$"):
        Crisp(sae=sae).fit(model, bare)


@pytest.mark.parametrize("options", [{"beta": 2}, {"rank": 0}, {"tau": 3}, {"kind": "relu"}])
def test_wrong_options_are_refused_by_name(options) -> None:
    with pytest.raises(BadInput, match=next(iter(options))):
        Crisp(**options)
