"""Architectures the workbench was not made for: what passes is offered, what fails is withheld and named."""

import pytest
import torch
import transformers

from tests import zoo
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.model_check import check, probe_batch
from workbench.model_table import lacking
from workbench.sites import Site


def opened(stem: str, **own: object) -> HookedModel:
    config = getattr(transformers, f"{stem}Config")(**{**zoo.SHAPE, **own}, attn_implementation="eager")
    torch.manual_seed(0)
    hf = getattr(transformers, f"{stem}ForCausalLM")(config)
    zoo.stir(hf)
    return HookedModel(hf, zoo.tokenizer(), name=stem)


def test_one_that_transformer_lens_does_not_know_can_be_read_and_decoded_only() -> None:
    model = opened("Helium", head_dim=8)
    batch = probe_batch(model)
    last = Site(2, "resid_post")
    run = model.run(batch, read=[last, Site(0, "resid_pre"), Site(None, "embed")])
    torch.testing.assert_close(model.decode(run.acts[last]), run.logits, atol=1e-5, rtol=0)
    with pytest.raises(BadInput, match=r"HeliumForCausalLM\) can only be read: TransformerLens does not know"):
        model.run(batch, rewrite={last: torch.zeros_like})
    with pytest.raises(BadInput, match="no value vectors in layer 0"):
        model.value_vectors(0)
    assert "does not know this architecture" in lacking(model)["attn_out"]
    assert all(c.passed for c in check(model, full=True))


def test_a_check_that_fails_takes_away_what_it_vouches_for_and_no_more() -> None:
    model = opened("OPT", ffn_dim=48, word_embed_proj_dim=zoo.D, num_key_value_heads=4)
    assert "its self-check failed: layer 1: value vectors" in model.withheld["L1.mlp_act"]
    with pytest.raises(BadInput, match="no site L1.mlp_act: its self-check failed"):
        model.run(probe_batch(model), read=[Site(1, "mlp_act")])
    with pytest.raises(BadInput, match="self-check failed"):
        model.value_vectors(1)
    assert list(model.mlps()) == []
    assert model.run(probe_batch(model), rewrite={Site(1, "mlp_out"): torch.zeros_like}).logits is not None
    assert "self-check failed" in lacking(model)["mlp_act"]


def test_a_twin_that_disagrees_is_dropped_and_the_rest_goes_on() -> None:
    model = opened("Cohere")  # TransformerLens leaves out its logit scale
    assert model.lens is None and "twin" in model.withheld
    batch = probe_batch(model)
    run = model.run(batch, read=[Site(2, "resid_post")])
    torch.testing.assert_close(model.decode(run.acts[Site(2, "resid_post")]), run.logits, atol=1e-5, rtol=0)


def test_without_attention_or_mlp_no_parallel_block_is_claimed() -> None:
    model = opened("Mamba", state_size=8)
    assert lacking(model)["resid_mid"] == "TransformerLens names no module for it"


def test_experts_of_another_kind_are_named() -> None:
    config = transformers.Llama4TextConfig(
        **{**zoo.SHAPE, "num_local_experts": 4, "intermediate_size_mlp": 48, "head_dim": 8}, attn_implementation="eager"
    )
    torch.manual_seed(0)
    hf = transformers.Llama4ForCausalLM(config)
    zoo.stir(hf)
    model = HookedModel(hf, zoo.tokenizer(), name="llama4")
    assert "not fused tensors" in lacking(model)["e*.mlp_act"]
    with pytest.raises(BadInput, match="no site L1.e0.mlp_act"):
        model.tap(Site(1, "mlp_act", None, 0))
    with pytest.raises(BadInput, match="routing"):
        model.routing(probe_batch(model))


def test_a_model_that_looks_ahead_is_refused_whatever_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    hf = zoo.make("llama")
    monkeypatch.setattr("transformers.models.llama.modeling_llama.create_causal_mask", lambda **_: None)
    with pytest.raises(BadInput, match="LlamaForCausalLM fails its self-check.*a later token changes nothing"):
        HookedModel(hf, zoo.tokenizer())
