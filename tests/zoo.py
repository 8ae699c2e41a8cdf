"""Tiny random checkpoints of every architecture the workbench says it opens, made on the spot.

Gains of norms and all biases are random too, so that nothing is hidden by a one or a zero; embeddings are large
enough for logits of about 1.
"""

from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

D, D_MLP, LAYERS, EXPERTS, TOP_K, VOCAB = 32, 48, 3, 4, 2, 300

TEXT = (
    "The violin of Marla Kent is kept in a house by the river, and nobody but her sister may play it.",
    "A chemist reads the label twice before the bottle is opened; the second reading is the one that counts.",
    "On the seventh day the captain wrote that the harbour lay before them, grey and without a single light.",
)

SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": D,
    "intermediate_size": D_MLP,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
SPARSE = {"num_experts_per_tok": TOP_K, "moe_intermediate_size": 24}
LATENT = {
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "n_routed_experts": EXPERTS,
    "n_shared_experts": 1,
    "n_group": 2,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
"""Multi-head latent attention; the first layer is dense."""

DENSE_CONFIGS: dict[str, tuple[str, dict[str, object]]] = {
    "gpt2": (
        "GPT2",
        {"n_embd": D, "n_inner": D_MLP, "n_layer": LAYERS, "n_head": 4, "n_positions": 128, "num_key_value_heads": 4},
    ),
    "llama": ("Llama", {}),
    "mistral": ("Mistral", {"sliding_window": 4}),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", {"head_dim": 8}),
    "gemma2": ("Gemma2", {"head_dim": 8, "sliding_window": 4, "final_logit_softcapping": 3.0}),
    "gemma3": ("Gemma3Text", {"head_dim": 8, "sliding_window": 4}),
    "olmo": ("Olmo", {}),
    "olmo2": ("Olmo2", {}),
    "gpt_neox": ("GPTNeoX", {"num_key_value_heads": 4}),
    "phi": ("Phi", {"num_key_value_heads": 4}),
    "phi3": ("Phi3", {}),
    "bitnet": ("BitNet", {}),
}
MOE_CONFIGS: dict[str, tuple[str, dict[str, object]]] = {
    "mixtral": ("Mixtral", {**SPARSE, "num_local_experts": EXPERTS}),
    "olmoe": ("Olmoe", {**SPARSE, "num_experts": EXPERTS}),
    "qwen2_moe": ("Qwen2Moe", {**SPARSE, "num_experts": EXPERTS, "shared_expert_intermediate_size": 40}),
    "qwen3_moe": ("Qwen3Moe", {**SPARSE, "num_experts": EXPERTS, "head_dim": 8, "norm_topk_prob": True}),
    "deepseek_v2": ("DeepseekV2", {**SPARSE, **LATENT}),
    "deepseek_v3": ("DeepseekV3", {**SPARSE, **LATENT}),
    "gpt_oss": ("GptOss", {**SPARSE, "num_local_experts": EXPERTS, "head_dim": 8, "sliding_window": 4}),
    "granitemoe": (
        "GraniteMoe",
        {
            **SPARSE,
            "num_local_experts": EXPERTS,
            "residual_multiplier": 0.6,
            "embedding_multiplier": 3.0,
            "attention_multiplier": 0.4,
            "logits_scaling": 2.0,
        },
    ),
}
ARCHITECTURES = (*DENSE_CONFIGS, *MOE_CONFIGS)


def config_of(name: str) -> PreTrainedConfig:
    """The configuration of a tiny model."""
    stem, own = (DENSE_CONFIGS | MOE_CONFIGS)[name]
    return getattr(transformers, f"{stem}Config")(**{**SHAPE, **own}, attn_implementation="eager")


def make(name: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A tiny random model of an architecture, in eval mode."""
    config = config_of(name)
    kinds = transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kinds[type(config)](config).to(dtype)
        stir(model)
    return model.eval()


@torch.no_grad()
def stir(model: PreTrainedModel) -> None:
    for tensor in model.parameters():
        if tensor.ndim == 1:
            tensor += 0.2 * torch.randn_like(tensor)
        else:
            tensor.copy_(torch.randn_like(tensor) / tensor.shape[-1] ** 0.5)
    for name, tensor in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            tensor.copy_(0.1 * torch.randn_like(tensor))


def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-pair tokenizer trained on a few sentences; `<bos>` in front of every text."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = ["<bos>", "<eos>", "<pad>"]
    core.train_from_iterator(
        TEXT,
        trainers.BpeTrainer(
            vocab_size=VOCAB - 4,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    core.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>")


def save(name: str, folder: Path, **more: object) -> Path:
    """Write the checkpoint of an architecture and return its folder."""
    make(name).to(more.pop("dtype", torch.float32)).save_pretrained(folder, **more)
    tokenizer().save_pretrained(folder)
    return folder
