from dataclasses import replace

import pytest
import torch

from workbench.checkpoint import Checkpoint
from workbench.demo.planted import plant
from workbench.errors import BadInput
from workbench.hooks import put
from workbench.model import HookedModel
from workbench.model_check import check, probe_batch
from workbench.model_sites import twin_of
from workbench.sites import Site
from workbench.tokens import pad


@pytest.fixture(scope="module", params=["llama", "olmoe"])
def model(request: pytest.FixtureRequest) -> HookedModel:
    planted = plant(request.param, 0)
    return HookedModel(planted.model, planted.tokenizer, name=request.param)


def test_the_twin_shares_every_parameter_and_the_model_stays_as_it_was(model: HookedModel) -> None:
    twin = dict(twin_of(model.hf).named_parameters())
    assert all(twin[name] is parameter for name, parameter in model.hf.named_parameters())
    assert not any("_original_component" in name for name in model.hf.state_dict())


def test_every_check_passes_and_is_tight(model: HookedModel) -> None:
    found = check(model)
    assert all(c.passed for c in found)
    assert max(c.deviation for c in found[:-1]) < 1e-5


def test_a_wrong_site_table_is_refused_with_the_name_of_the_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    planted = plant("llama", 0)
    sound = HookedModel(planted.model, planted.tokenizer)
    wrong = {**sound.taps, Site(1, "attn_out"): sound.taps[Site(1, "mlp_out")]}
    monkeypatch.setattr("workbench.model.anatomy_of", lambda *_: replace(sound.anatomy, taps=wrong))
    with pytest.raises(BadInput, match="LlamaForCausalLM fails its self-check.*layer 1"):
        HookedModel(planted.model, planted.tokenizer)


def test_rows_restore_their_own_sites_in_one_pass_as_one_by_one(model: HookedModel) -> None:
    batch = probe_batch(model)
    rows = pad([batch.ids[0].tolist()] * 3)
    site = Site(1, "resid_post")
    values = torch.randn(3, model.d_model, generator=torch.Generator().manual_seed(1))
    together = model.run(rows, rewrite={site: put(torch.arange(3), torch.tensor([1, 3, 5]), values)}).logits
    for i, position in enumerate([1, 3, 5]):
        one = pad([batch.ids[0].tolist()])
        alone = model.run(
            one, rewrite={site: put(torch.tensor([0]), torch.tensor([position]), values[i : i + 1])}
        ).logits
        torch.testing.assert_close(together[i], alone[0], atol=1e-5, rtol=0)
    plain = model.run(rows).logits
    assert (together - plain).abs().max() > 1e-3


def test_a_single_neuron_or_head_entry_is_a_slice(model: HookedModel) -> None:
    part = "head"
    both = model.run(probe_batch(model), read=[Site(0, part), Site(0, part, 3)]).acts
    wide = both[Site(0, part)].shape[-1] // model.hf.config.num_attention_heads
    assert torch.equal(both[Site(0, part)][..., 3 * wide : 4 * wide], both[Site(0, part, 3)])


def test_no_hook_stays_after_an_error(model: HookedModel) -> None:
    batch = probe_batch(model)
    before = model.run(batch).logits

    def fail(_: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        model.run(batch, rewrite={Site(0, "resid_post"): fail, Site(1, "attn_out"): torch.zeros_like})
    assert torch.equal(model.run(batch).logits, before)


def test_a_site_that_does_not_exist_is_named_with_what_does(model: HookedModel) -> None:
    with pytest.raises(BadInput, match="layers 0 to 2"):
        model.run(probe_batch(model), read=[Site(9, "resid_post")])
    missing, has = ("mlp_act", "mixture of experts") if model.mixture_layers else ("router", "layer 1 has .*resid_post")
    with pytest.raises(BadInput, match=f"no site L1.{missing}: .*{has}"):
        model.run(probe_batch(model), read=[Site(1, missing)])


def test_a_place_that_can_only_be_read_refuses_a_rewrite(model: HookedModel) -> None:
    with pytest.raises(BadInput, match="attn_out"):
        model.run(probe_batch(model), rewrite={Site(0, "resid_mid"): torch.zeros_like})


def test_padding_does_not_matter(model: HookedModel) -> None:
    short, long = [2, 5, 6], [2, 5, 6, 7, 8, 9]
    alone = model.run(pad([short])).logits[0]
    padded = model.run(pad([short, long])).logits[0, :3]
    torch.testing.assert_close(alone, padded, atol=1e-5, rtol=0)


def test_random_neurons_are_reproducible_distinct_and_spread(model: HookedModel) -> None:
    drawn = model.random_neurons(40, seed=1)
    assert drawn == model.random_neurons(40, seed=1) != model.random_neurons(40, seed=2)
    assert len(set(drawn)) == 40
    assert {site.layer for site in drawn} == {0, 1, 2}
    assert all((site.expert is not None) == bool(model.mixture_layers) for site in drawn)


def test_a_checkpoint_is_known_by_its_content_not_its_name(planted_folder, tmp_path) -> None:
    import shutil

    moved = tmp_path / "another name"
    shutil.copytree(planted_folder, moved)
    assert Checkpoint(moved).digest == Checkpoint(planted_folder).digest
    (moved / "config.json").write_text((moved / "config.json").read_text() + " ")
    assert Checkpoint(moved).digest != Checkpoint(planted_folder).digest


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda f: (f / "config.json").unlink(), "no config.json"),
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "Pickled weights"),
        (lambda f: (f / "tokenizer.json").unlink(), "no tokenizer"),
        (lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:999]), "Cannot load"),
        (
            lambda f: (f / "config.json").write_text(
                (f / "config.json").read_text().replace("{", '{"auto_map": {},', 1)
            ),
            "not executed",
        ),
    ],
)
def test_a_broken_checkpoint_is_refused(planted_folder, tmp_path, break_it, words) -> None:
    import shutil

    folder = tmp_path / "broken"
    shutil.copytree(planted_folder, folder)
    break_it(folder)
    with pytest.raises(BadInput, match=words):
        Checkpoint(folder).open()


def test_a_checkpoint_that_lacks_a_tensor_is_refused_and_the_tensor_named(planted_folder, tmp_path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    folder = tmp_path / "partial"
    shutil.copytree(planted_folder, folder)
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.down_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadInput, match=r"model\.layers\.1\.mlp\.down_proj\.weight"):
        Checkpoint(folder).open()
