"""Names on disk: layer, module, matrix and expert, and which tensors hold all experts at once."""

import pytest

from workbench.tensor_names import MODULES, Place, is_fused, natural_order, place_of

NAMES = [
    ("model.embed_tokens.weight", Place(None, "embedding", "embed_tokens")),
    ("transformer.wpe.weight", Place(None, "embedding", "wpe")),
    ("transformer.word_embeddings_layernorm.bias", Place(None, "norm", "word_embeddings_layernorm bias")),
    ("lm_head.weight", Place(None, "unembedding", "lm_head")),
    ("embed_out.weight", Place(None, "unembedding", "embed_out")),
    ("model.norm.weight", Place(None, "norm", "norm")),
    ("transformer.ln_f.weight", Place(None, "norm", "ln_f")),
    ("model.layers.11.self_attn.q_proj.weight", Place(11, "attention", "q_proj")),
    ("model.layers.0.self_attn.q_proj.bias", Place(0, "attention", "q_proj bias")),
    ("model.layers.0.self_attn.q_norm.weight", Place(0, "norm", "q_norm")),
    ("model.layers.0.self_attn.sinks", Place(0, "attention", "sinks")),
    ("model.decoder.layers.1.self_attn_layer_norm.bias", Place(1, "norm", "self_attn_layer_norm bias")),
    ("model.decoder.layers.1.fc1.weight", Place(1, "mlp", "fc1")),
    ("model.layers.2.post_attention_layernorm.weight", Place(2, "norm", "post_attention_layernorm")),
    ("gpt_neox.layers.2.attention.query_key_value.weight", Place(2, "attention", "query_key_value")),
    ("transformer.h.3.attn.c_proj.weight", Place(3, "attention", "c_proj")),
    ("transformer.h.3.mlp.c_proj.weight", Place(3, "mlp", "c_proj")),
    ("transformer.h.3.ln_1.weight", Place(3, "norm", "ln_1")),
    ("model.layers.1.mlp.gate_proj.weight", Place(1, "mlp", "gate_proj")),
    ("model.layers.1.mlp.gate.weight", Place(1, "router", "gate")),
    ("model.layers.1.mlp.gate.e_score_correction_bias", Place(1, "router", "e_score_correction_bias")),
    ("model.layers.1.mlp.router.bias", Place(1, "router", "router bias")),
    ("model.layers.1.block_sparse_moe.router.layer.weight", Place(1, "router", "router")),
    ("model.layers.1.mlp.experts.3.down_proj.weight", Place(1, "mlp", "down_proj", 3)),
    ("model.layers.1.block_sparse_moe.experts.12.w1.weight", Place(1, "mlp", "w1", 12)),
    ("model.layers.1.mlp.experts.down_proj", Place(1, "mlp", "down_proj")),
    ("model.layers.1.mlp.experts.down_proj_bias", Place(1, "mlp", "down_proj bias")),
    ("model.layers.1.block_sparse_moe.input_linear.weight", Place(1, "mlp", "input_linear")),
    ("model.layers.1.feed_forward.experts.gate_up_proj", Place(1, "mlp", "gate_up_proj")),
    ("model.layers.1.mlp.shared_expert.down_proj.weight", Place(1, "shared expert", "down_proj")),
    ("model.layers.1.mlp.shared_expert_gate.weight", Place(1, "shared expert", "shared_expert_gate")),
    ("model.layers.1.mlp.shared_experts.up_proj.weight", Place(1, "shared expert", "up_proj")),
    ("model.layers.1.shared_mlp.input_linear.weight", Place(1, "shared expert", "input_linear")),
    ("model.vision_tower.encoder.layers.4.self_attn.q_proj.weight", Place(None, "other", "q_proj")),
    ("something", Place(None, "other", "something")),
    ("weight", Place(None, "other", "?")),
]


@pytest.mark.parametrize(("name", "place"), NAMES)
def test_a_name_says_where_the_tensor_belongs(name, place):
    assert place_of(name) == place
    assert place.module in MODULES


@pytest.mark.parametrize(
    ("name", "shape", "fused"),
    [
        ("model.layers.1.mlp.experts.down_proj", (4, 24, 16), True),
        ("model.layers.1.mlp.experts.down_proj_bias", (4, 16), True),
        ("model.layers.1.mlp.experts.gate_up_proj_blocks", (4, 48, 2, 16), True),
        ("model.layers.1.block_sparse_moe.output_linear.weight", (4, 16, 24), True),
        ("model.layers.1.mlp.experts.3.down_proj.weight", (16, 24), False),
        ("transformer.blocks.1.ffn.experts.mlp.w1", (96, 16), False),
        ("model.layers.1.shared_mlp.input_linear.weight", (32, 16), False),
        ("model.layers.1.block_sparse_moe.router.layer.weight", (4, 16), False),
        ("model.layers.1.mamba.conv1d.weight", (32, 1, 4), False),
    ],
)
def test_a_fused_tensor_is_known_by_name_and_shape(name, shape, fused):
    assert is_fused(name, shape) is fused


def test_layer_10_comes_after_layer_9():
    names = ["a.10.b", "a.9.b", "a.9.a", "b", "a.b"]
    assert sorted(names, key=natural_order) == ["a.9.a", "a.9.b", "a.10.b", "a.b", "b"]
