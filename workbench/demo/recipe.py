"""The recipes of the demo models: shapes, steps, learning rates, and what they must achieve to be used at all.

Read it as: one `Recipe` per kind of model; its digest together with seed, role and concept names a cached model, so a
changed recipe never meets an old model. Raise `VERSION` when the world, the packing or the loss changes.
Does not show: good settings for other models; these were tuned for speed on one CPU thread.
"""

import hashlib
import json
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    OlmoeConfig,
    OlmoeForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from workbench.demo.packing import ROW, next_token_loss
from workbench.training import Batch, Loss, TrainingOptions

VERSION = 1
"""Counts changes of the world, the packing and the loss."""

Kind = Literal["dense", "moe"]
"""Llama, or mixture of experts (OLMoE)."""

Routing = Literal["free", "topic"]
"""Whether the experts of a `moe` model are left to themselves or each topic is taught to use one expert."""


class Recipe(BaseModel):
    """How one kind of demo model is made."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    layers: int = 5
    """Blocks."""
    width: int = 96
    """Dimensions of the residual stream."""
    neurons: int = 256
    """Neurons of an MLP, or of one expert."""
    heads: int = 4
    """Attention heads per block."""
    experts: int = 0
    """Experts per block; 0 is a dense model."""
    experts_used: int = 2
    """Experts that each token goes through."""
    routing: Routing = "free"
    """How tokens find experts."""
    routing_weight: float = 0.0
    """Weight of the routing loss (cross-entropy of the topic's expert, nats)."""
    embedding_std: float = 0.15
    """Standard deviation of the fresh embeddings."""
    steps: int = 320
    """Updates."""
    rows: int = 32
    """Rows of 64 tokens per update."""
    lr: float = 3e-3
    """Learning rate of AdamW (embeddings, norms, experts, routers)."""
    muon_lr: float = 0.02
    """Learning rate of Muon (matrices)."""
    muon_weight_decay: float = 0.1
    """Weight decay of Muon."""
    least_recall: float = 0.95
    """Recall of the taught facts in held-out wordings, below which the model is not used."""

    def training(self, seed: int) -> TrainingOptions:
        """The settings of the training loop."""
        return TrainingOptions(
            steps=self.steps,
            batch_size=self.rows,
            lr=self.lr,
            schedule="cosine",
            seed=seed,
            optimizer="muon",
            muon_lr=self.muon_lr,
            muon_weight_decay=self.muon_weight_decay,
        )

    def digest(self, **about: object) -> str:
        """Twelve hex digits for the recipe, its version and whatever else tells models apart."""
        row = {"version": VERSION, "recipe": self.model_dump(mode="json"), **about}
        return hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest()[:12]


_MOE = Recipe(layers=4, neurons=96, experts=8)

RECIPES: dict[tuple[Kind, Routing], Recipe] = {
    ("dense", "free"): Recipe(),
    ("moe", "free"): _MOE,
    ("moe", "topic"): _MOE.model_copy(update={"routing": "topic", "routing_weight": 1.0, "steps": 360}),
}
"""What can be built."""


def fresh_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, seed: int) -> PreTrainedModel:
    """An untrained model of the recipe's shape; the global random state is not used up."""
    shape = {
        "vocab_size": len(tokenizer),
        "hidden_size": recipe.width,
        "intermediate_size": recipe.neurons,
        "num_hidden_layers": recipe.layers,
        "num_attention_heads": recipe.heads,
        "num_key_value_heads": recipe.heads,
        "max_position_embeddings": 8 * ROW,
        "tie_word_embeddings": True,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if recipe.experts:
            model: PreTrainedModel = OlmoeForCausalLM(
                OlmoeConfig(
                    **shape,
                    num_experts=recipe.experts,
                    num_experts_per_tok=recipe.experts_used,
                    attn_implementation="eager",
                )
            )
        else:
            model = LlamaForCausalLM(LlamaConfig(**shape, attn_implementation="eager"))
        torch.nn.init.normal_(model.get_input_embeddings().weight, std=recipe.embedding_std)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
    )
    return model


def loss_of(recipe: Recipe) -> Loss:
    """The loss of a recipe: next token, and for topic routing also "send each topic to its expert"."""

    def with_routing(model: PreTrainedModel, batch: Batch) -> Float[Tensor, ""]:
        # the trunk is called by itself: asked for router logits, the whole model adds a loss that wants a 2-D mask
        out = model.base_model(
            input_ids=batch["ids"],
            attention_mask=batch["mask"],
            position_ids=batch["positions"],
            use_cache=False,
            output_router_logits=True,
        )
        topic = batch["topic"].flatten()
        routed = [cross_entropy(logits, topic, ignore_index=-1) for logits in out.router_logits]
        logits = model.get_output_embeddings()(out.last_hidden_state)
        return next_token_loss(logits, batch) + recipe.routing_weight * torch.stack(routed).mean()

    def language(model: PreTrainedModel, batch: Batch) -> Float[Tensor, ""]:
        logits = model(
            input_ids=batch["ids"], attention_mask=batch["mask"], position_ids=batch["positions"], use_cache=False
        ).logits
        return next_token_loss(logits, batch)

    return with_routing if recipe.routing_weight else language
