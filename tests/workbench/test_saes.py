"""Slices of real SAEs give the SAE's own activations, splicing keeps the error term, and training does what it says."""

import json
from pathlib import Path

import pytest
import torch

sae_lens = pytest.importorskip("sae_lens")

from safetensors.torch import load_file  # noqa: E402

from workbench import sae_training  # noqa: E402
from workbench.demo.planted import plant  # noqa: E402
from workbench.edits import HookEdit, load_edit  # noqa: E402
from workbench.errors import BadInput  # noqa: E402
from workbench.model import HookedModel  # noqa: E402
from workbench.model_check import probe_batch  # noqa: E402
from workbench.operators import Operator  # noqa: E402
from workbench.sae_features import FeatureSlice, sae_clamp, sae_scale  # noqa: E402
from workbench.sae_reading import Dictionary, feature_effects, read_features  # noqa: E402
from workbench.sae_training import token_rows, train_sae  # noqa: E402
from workbench.saes import SaeOptions, dictionary_of, feature_slice, load_sae, made_at  # noqa: E402
from workbench.scoring import score  # noqa: E402
from workbench.sites import Site  # noqa: E402
from workbench.tokens import pad  # noqa: E402

D_IN, D_SAE, FEATURES = 128, 64, [3, 17, 40, 5]
X = 2 * torch.randn(4, 60, D_IN, generator=torch.Generator().manual_seed(0))

INFERENCE = {
    "standard": lambda **more: sae_lens.StandardSAE(sae_lens.StandardSAEConfig(D_IN, D_SAE, **more)),
    "jumprelu": lambda **more: sae_lens.JumpReLUSAE(sae_lens.JumpReLUSAEConfig(D_IN, D_SAE, **more)),
    "gated": lambda **more: sae_lens.GatedSAE(sae_lens.GatedSAEConfig(D_IN, D_SAE, **more)),
    "topk": lambda **more: sae_lens.TopKSAE(sae_lens.TopKSAEConfig(D_IN, D_SAE, k=20, **more)),
    "topk_rescaled": lambda **more: sae_lens.TopKSAE(
        sae_lens.TopKSAEConfig(D_IN, D_SAE, k=20, rescale_acts_by_decoder_norm=True, **more)
    ),
}


@torch.no_grad()
def random_sae(kind: str, **more):
    """Every weight random, thresholds positive, no two decoder norms alike."""
    generator = torch.Generator().manual_seed(1)
    sae = INFERENCE[kind](**more)
    for name, parameter in sae.named_parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * (0.3 if parameter.ndim == 1 else 0.1))
        if name == "threshold":
            parameter.copy_(parameter.abs() + 0.5)
    sae.W_dec.mul_(torch.linspace(0.5, 2, D_SAE)[:, None])
    return sae


@torch.no_grad()
def spliced(sae, value: torch.Tensor, change) -> torch.Tensor:
    """SAELens' way: the error term plus the decoding of the changed activations."""
    features = sae.encode(value)
    changed = features.clone()
    changed[..., FEATURES] = change(features[..., FEATURES])
    return value - sae.decode(features) + sae.decode(changed)


@pytest.mark.parametrize("kind", INFERENCE)
@pytest.mark.parametrize("subtracts", [True, False])
def test_a_slice_gives_the_saes_own_activations(kind: str, subtracts: bool, tmp_path: Path) -> None:
    random_sae(kind, apply_b_dec_to_input=subtracts).save_model(tmp_path / "sae")
    sae = load_sae(tmp_path / "sae")
    own = sae.encode(X)[..., FEATURES].detach()
    assert (own > 0).any((0, 1)).all() and (own == 0).any((0, 1)).all()  # each is on somewhere and off somewhere
    found = feature_slice(sae, FEATURES)
    assert found.features == tuple(FEATURES)
    torch.testing.assert_close(found.activations(X), own, rtol=1e-6, atol=1e-6 * float(own.max()))


@pytest.mark.parametrize("kind", INFERENCE)
def test_clamping_is_the_splice_with_the_error_term(kind: str) -> None:
    sae = random_sae(kind)
    given = feature_slice(sae, FEATURES).given
    clamp = Operator("sae_clamp", torch.tensor([-20.0, -1.0, 0.0, -5.0]), **given)
    targets = torch.tensor([-20.0, -1.0, 0.0, -5.0])
    expected = spliced(sae, X, lambda acts: torch.where(acts > 0, targets, acts))
    torch.testing.assert_close(clamp(X), expected, rtol=1e-5, atol=2e-5)
    assert (clamp(X) - X).abs().max() > 1
    scale = Operator("sae_scale", torch.tensor(-3.0), **given)
    torch.testing.assert_close(scale(X), spliced(sae, X, lambda acts: -3 * acts), rtol=1e-5, atol=2e-5)


def test_where_no_feature_is_active_the_value_keeps_its_bits() -> None:
    sae = random_sae("jumprelu")
    clamp = Operator("sae_clamp", torch.tensor(-20.0), **feature_slice(sae, FEATURES).given)
    off = (sae.encode(X)[..., FEATURES] == 0).all(-1)
    assert off.any() and not off.all()
    assert torch.equal(clamp(X)[off], X[off])
    assert (clamp(X)[~off] != X[~off]).any(-1).all()


def test_a_trained_sae_guards_a_model_and_the_guard_needs_no_sae_after_that(tmp_path: Path) -> None:
    planted = plant("llama", 0)
    model = HookedModel(planted.model, planted.tokenizer, check=False)
    site, batch = Site(1, "resid_post"), probe_batch(model)
    plain = model.run(batch, read=[site]).acts[site]
    sae = trained(plain.reshape(-1, D_IN), tmp_path / "sae")
    active = (sae.encode(plain) > 0).float().mean((0, 1))
    features = active.topk(3).indices.tolist()
    operator = Operator("sae_clamp", torch.tensor(-4.0), **feature_slice(sae, features).given)
    HookEdit(model.identity, {"method": "test"}, operators={site: operator}).save(tmp_path / "guard")
    guard = load_edit(tmp_path / "guard")
    with guard.on(model):
        guarded = model.run(batch, read=[site]).acts[site]
    acts = sae.encode(plain)
    changed = acts.clone()
    changed[..., features] = torch.where(acts[..., features] > 0, -4.0, acts[..., features])
    expected = (plain - sae.decode(acts) + sae.decode(changed)).detach()
    torch.testing.assert_close(guarded, expected, rtol=1e-4, atol=1e-4)
    assert not torch.equal(guarded, plain)


def trained(data: torch.Tensor, folder: Path):
    """A BatchTopK SAE after a few steps, as it comes back from disk (JumpReLU)."""
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sae = sae_lens.BatchTopKTrainingSAE(sae_lens.BatchTopKTrainingSAEConfig(d_in=D_IN, d_sae=D_SAE, k=8))
        rows = data[torch.randint(len(data), (10, 64))]
        options = SAETrainerConfig(
            n_checkpoints=0,
            checkpoint_path=None,
            save_final_checkpoint=False,
            total_training_samples=640,
            device="cpu",
            autocast=False,
            lr=1e-3,
            lr_end=1e-4,
            lr_scheduler_name="constant",
            lr_warm_up_steps=0,
            adam_beta1=0.9,
            adam_beta2=0.999,
            lr_decay_steps=0,
            n_restart_cycles=1,
            train_batch_size_samples=64,
            dead_feature_window=1000,
            feature_sampling_window=1000,
            logger=sae_lens.LoggingConfig(log_to_wandb=False),
        )
        SAETrainer(options, sae, data_provider=iter(rows)).fit()
    with pytest.raises(BadInput, match="still in training"):
        feature_slice(sae, [0])
    sae.save_inference_model(folder)
    loaded = load_sae(folder)
    assert loaded.cfg.architecture() == "jumprelu"
    return loaded


@pytest.mark.parametrize("features", [[], [64], [-1], [3, 3]])
def test_features_that_are_not_there_are_refused(features: list[int]) -> None:
    with pytest.raises(BadInput, match="from 0 to 63"):
        feature_slice(random_sae("standard"), features)


@pytest.mark.parametrize("way", ["layer_norm", "expected_average_only_in"])
def test_an_sae_that_normalises_its_input_is_refused(way: str) -> None:
    with pytest.raises(BadInput, match=f"normalises its input \\({way}\\)"):
        feature_slice(random_sae("standard", normalize_activations=way), [0])


def test_a_factor_that_is_folded_in_is_no_obstacle() -> None:
    sae = random_sae("standard", normalize_activations="expected_average_only_in")
    sae.fold_activation_norm_scaling_factor(1.7)
    own = sae.encode(X)[..., FEATURES].detach()
    torch.testing.assert_close(
        feature_slice(sae, FEATURES).activations(X), own, rtol=1e-6, atol=1e-6 * float(own.max())
    )


def test_reshaping_and_unknown_architectures_are_refused() -> None:
    reshaping = random_sae("standard")
    reshaping.cfg.reshape_activations = "hook_z"
    with pytest.raises(BadInput, match="reshapes its input"):
        feature_slice(reshaping, [0])
    transcoder = sae_lens.Transcoder(sae_lens.TranscoderConfig(D_IN, D_SAE, d_out=D_IN, apply_b_dec_to_input=False))
    with pytest.raises(BadInput, match="'transcoder' cannot be sliced"):
        feature_slice(transcoder, [0])


def test_what_is_not_there_is_said_clearly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="no cfg.json"):
        load_sae(tmp_path)
    (tmp_path / "cfg.json").write_text("{")
    with pytest.raises(BadInput, match="Cannot read the SAE"):
        load_sae(tmp_path)
    with pytest.raises(BadInput, match="Release no-such-release not found"):
        load_sae("no-such-release", "blocks.0")
    from huggingface_hub import constants

    asked = []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("socket.getaddrinfo", lambda *host, **_: asked.append(host) or [])
    with pytest.raises(BadInput, match="not in the local Hugging Face cache, and offline is set"):
        load_sae("gpt2-small-res-jb", "blocks.8.hook_resid_pre")
    assert not asked and constants.HF_HUB_OFFLINE is False


# ---- published numbers


GOLDEN = Path(__file__).parents[1] / "golden"
RECORDS = {record["id"]: record for record in json.loads((GOLDEN / "sae_features.json").read_text())["records"]}


@pytest.mark.parametrize("name", [name for name in RECORDS if "clamp" in name or "scale" in name])
def test_clamping_and_scaling_agree_with_published_code(name: str) -> None:
    """SAEBench leaves the first token as it is; Farrell et al. change it like any other, as we do."""
    record, tensors = RECORDS[name], load_file(GOLDEN / "sae_features.safetensors")
    chosen, multiplier = record["arguments"]["features"], record["arguments"]["multiplier"]
    kind = "relu" if record["arguments"].get("encoder", "").startswith("relu") else "jumprelu"
    given = {
        "encoder": tensors["sae.W_enc"][:, chosen],
        "bias": tensors["sae.b_enc"][chosen],
        "decoder": tensors["sae.W_dec"][chosen],
    }
    if kind == "jumprelu":
        given["threshold"] = tensors["sae.threshold"][chosen]
    if "scale" in name:
        ours = sae_scale(tensors["sae.resid"], torch.tensor(1 - multiplier), kind=kind, **given)
    else:
        ours = sae_clamp(tensors["sae.resid"], torch.tensor(-multiplier).double(), kind=kind, **given)
    published = torch.tensor(record["published"]["value"], dtype=torch.float64)
    first = 1 if "saebench" in name else 0
    torch.testing.assert_close(ours[:, first:], published[:, first:], rtol=1e-9, atol=1e-9)
    assert not torch.allclose(ours, tensors["sae.resid"])


# ---- training


SITE = Site(1, "resid_post")
SHORT = {"steps": 120, "batch_size": 64}


@pytest.fixture(scope="module")
def open_planted():
    planted = plant("llama", 0)
    return HookedModel(planted.model, planted.tokenizer, name="planted", check=False), planted.concept


@pytest.fixture(scope="module")
def folder(open_planted, own_cache) -> Path:  # noqa: ARG001  (the cache must be ours before anything is kept)
    model, concept = open_planted
    return train_sae(
        model, SITE, facts=concept.forget.facts, texts=concept.text, options=SaeOptions(**SHORT, kind="topk")
    )


def counted_values(model: HookedModel, site: Site, rows) -> torch.Tensor:
    """Row by row, without padding: the site's value at every token that is not special."""
    found = []
    for ids in rows:
        here = torch.tensor([i not in model.tokenizer.all_special_ids for i in ids])
        found.append(model.run(pad([ids]), read=[site]).acts[site][0][here])
    return torch.cat(found).detach()


@torch.no_grad()
@pytest.mark.parametrize("kind", ["standard", "topk", "batchtopk", "jumprelu"])
def test_an_sae_of_every_kind_learns_and_says_how_well(open_planted, kind: str) -> None:
    model, concept = open_planted
    texts, facts = concept.text, concept.forget.facts
    asked = SaeOptions(**SHORT, kind=kind)
    sae = load_sae(train_sae(model, SITE, facts=facts, texts=texts, options=asked))
    said, rows = sae.cfg.metadata, token_rows(model, facts, texts)
    values = counted_values(model, SITE, rows)
    active = sae.encode(values)
    error = (values - sae.decode(active)).square().sum() / (values - values.mean(0)).square().sum()
    assert said.explained_variance == pytest.approx(1 - float(error), abs=1e-4)
    assert said.explained_variance > 0.8
    assert said.tokens == len(values)
    assert said.l0 == pytest.approx(float((active > 0).sum(1).float().mean()))
    assert said.dead_features == int((active > 0).any(0).logical_not().sum())
    assert (said.model_name, said.model_digest, made_at(said.to_dict())) == ("planted", model.identity, SITE)
    assert sae.cfg.d_sae == 4 * D_IN and sae.cfg.normalize_activations == "none"
    if kind == "topk":
        assert said.l0 == 8


def test_an_sae_without_training_explains_little(open_planted) -> None:
    model, concept = open_planted
    folder = train_sae(model, SITE, facts=concept.forget.facts, options=SaeOptions(steps=1, batch_size=64))
    assert load_sae(folder).cfg.metadata.explained_variance < 0.5


def test_the_same_question_is_not_trained_twice(open_planted, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, concept = open_planted
    asked = {"facts": concept.forget.facts, "texts": concept.text, "options": SaeOptions(**SHORT, kind="topk")}
    with monkeypatch.context() as no_training:
        no_training.setattr(sae_training, "fit_sae", None)
        assert train_sae(model, SITE, **asked) == folder
    weights = load_file(folder / "sae_weights.safetensors")
    seen = []

    def noted(activations, width, options, made, *_):
        seen.append((width, options.seed))
        folder_of = load_sae(folder)
        folder_of.save_model(made)

    monkeypatch.setattr(sae_training, "fit_sae", noted)
    other = {
        train_sae(model, Site(0, "resid_post"), **asked),
        train_sae(model, SITE, **asked | {"texts": ()}),
        train_sae(model, SITE, **asked | {"options": SaeOptions(**SHORT, kind="topk", seed=1)}),
    }
    with HookEdit(model.identity, {"method": "test"}, operators={SITE: Operator("scale", torch.tensor(2.0))}).on(model):
        other.add(train_sae(model, SITE, **asked))
    assert len(other - {folder}) == 4 and len(seen) == 4
    assert all(torch.equal(weights[name], t) for name, t in load_file(folder / "sae_weights.safetensors").items())


def test_training_is_told_of_and_leaves_no_traces(open_planted, capfd: pytest.CaptureFixture[str]) -> None:
    model, concept = open_planted
    state, told = torch.get_rng_state(), []
    options = SaeOptions(steps=30, batch_size=32)
    train_sae(model, SITE, facts=concept.near.facts, options=options, progress=lambda done, of: told.append((done, of)))
    assert torch.equal(torch.get_rng_state(), state)
    assert told[0][0] == 1 and told[-1] == (30, 30) and told == sorted(told)
    assert {done for done, _ in told} == set(range(1, 31))
    assert "it/s" not in capfd.readouterr().err


def test_the_same_seed_gives_the_same_sae(open_planted, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model, concept = open_planted

    def once(where: str, seed: int) -> torch.Tensor:
        monkeypatch.setenv("WORKBENCH_CACHE_DIR", str(tmp_path / where))
        options = SaeOptions(steps=20, batch_size=32, seed=seed)
        return load_file(train_sae(model, SITE, facts=concept.far.facts, options=options) / "sae_weights.safetensors")[
            "W_enc"
        ]

    assert torch.equal(once("a", 0), once("b", 0))
    assert not torch.equal(once("c", 0), once("c", 1))


def test_what_cannot_be_trained_is_said(open_planted) -> None:
    model, concept = open_planted
    with pytest.raises(BadInput, match="0 facts and 0 texts.*at least one text or fact"):
        train_sae(model, SITE)
    with pytest.raises(BadInput, match="0 facts and 1 texts"):
        train_sae(model, SITE, texts=[""])
    with pytest.raises(BadInput, match="no \\[index\\]"):
        train_sae(model, Site(1, "mlp_act", 3), facts=concept.forget.facts)
    with pytest.raises(BadInput, match="has no site L9.resid_post"):
        train_sae(model, Site(9, "resid_post"), facts=concept.forget.facts)
    with pytest.raises(BadInput, match="k=2000 features cannot be active of 512"):
        train_sae(model, SITE, facts=concept.forget.facts, options=SaeOptions(k=2000))


# ---- reading


@pytest.mark.parametrize(
    ("said", "site"),
    [
        ({"site": "L2.mlp_out", "hook_name": "blocks.0.hook_resid_pre"}, Site(2, "mlp_out")),
        ({"hook_name": "blocks.11.hook_resid_pre"}, Site(11, "resid_pre")),
        ({"hook_name": "blocks.1.hook_out"}, Site(1, "resid_post")),
        ({"hook_name": "blocks.4.mlp.hook_post"}, Site(4, "mlp_act")),
        ({"hook_name": "blocks.4.attn.hook_z"}, None),
        ({"hook_name": None}, None),
        ({}, None),
    ],
)
def test_an_sae_says_where_it_was_made(said: dict, site: Site | None) -> None:
    assert made_at(said) == site


@torch.no_grad()
def test_reading_counts_what_the_sae_itself_does(open_planted, folder: Path) -> None:
    model, concept = open_planted
    sae, rows = load_sae(folder), [e.ids for e in model.encode(concept.near.facts)]
    reading = read_features(model, SITE, dictionary_of(sae), rows)
    values = counted_values(model, SITE, rows)
    active = sae.encode(values)
    torch.testing.assert_close(reading.share, (active > 0).double().mean(0))
    error = (values - sae.decode(active)).square().sum() / (values - values.mean(0)).square().sum()
    assert reading.explained == pytest.approx(1 - float(error), abs=1e-4)
    assert reading.active == pytest.approx(float((active > 0).sum(1).double().mean()))
    assert int(reading.tokens.sum()) == len(values) < sum(map(len, rows))  # the first token of each does not count


def test_an_exact_dictionary_explains_everything(open_planted) -> None:
    model, concept = open_planted
    both = torch.cat([torch.eye(D_IN), -torch.eye(D_IN)])
    whole = FeatureSlice("relu", {"encoder": both.T, "bias": torch.zeros(2 * D_IN), "decoder": both})
    reading = read_features(
        model, SITE, Dictionary(whole, torch.zeros(D_IN), {}), [e.ids for e in model.encode(concept.far.facts)]
    )
    assert reading.explained == pytest.approx(1, abs=1e-6)


def test_effects_are_the_slope_of_the_answers_logit(open_planted, folder: Path) -> None:
    """Growing a feature by a hundredth moves the answers' logit by a hundredth of its effect."""
    model, concept = open_planted
    sae, facts = load_sae(folder), concept.forget.facts
    effects = feature_effects(model, SITE, dictionary_of(sae), model.encode(facts))
    top = effects.abs().argsort(descending=True)[:4].tolist()
    assert effects.abs()[top].min() > 0.005

    def logit(feature: int, factor: float) -> float:
        operator = Operator("sae_scale", torch.tensor(factor), **feature_slice(sae, [feature]).given)
        with HookEdit(model.identity, {"method": "test"}, operators={SITE: operator}).on(model):
            return float(score(model, facts).logit.double().mean())

    for feature in top:
        slope = (logit(feature, 1.01) - logit(feature, 0.99)) / 0.02
        assert slope == pytest.approx(float(effects[feature]), rel=0.05, abs=2e-3)
