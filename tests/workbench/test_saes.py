"""Slices of real SAEs give the SAE's own activations, and the splice is the SAE spliced in with its error term."""

from pathlib import Path

import pytest
import torch

sae_lens = pytest.importorskip("sae_lens")

from workbench.demo.planted import plant  # noqa: E402
from workbench.edits import HookEdit, load_edit  # noqa: E402
from workbench.errors import BadInput  # noqa: E402
from workbench.model import HookedModel  # noqa: E402
from workbench.model_check import probe_batch  # noqa: E402
from workbench.operators import Operator  # noqa: E402
from workbench.saes import feature_slice, load_sae  # noqa: E402
from workbench.sites import Site  # noqa: E402

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
