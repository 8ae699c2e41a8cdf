"""Sparse autoencoders written by hand for the planted models, so that what every feature stands for is known."""

from pathlib import Path

import torch

from workbench.concepts import Fact
from workbench.model import HookedModel


def token(model: HookedModel, word: str) -> int:
    """Id of a word that is one token."""
    (found,) = model.tokenizer(word, add_special_tokens=False)["input_ids"]
    return found


@torch.no_grad()
def save_sae(folder: Path, site: str, detectors, decoder, threshold: float = 0.0, bias=None, model_name: str = "hand"):
    """A JumpReLU SAE: one column of `detectors` and one row of `decoder` a feature."""
    import sae_lens

    sae = sae_lens.JumpReLUSAE(
        sae_lens.JumpReLUSAEConfig(detectors.shape[0], detectors.shape[1], apply_b_dec_to_input=False)
    )
    sae.W_enc.copy_(detectors)
    sae.W_dec.copy_(decoder)
    sae.b_enc.copy_(torch.zeros(len(decoder)) if bias is None else bias)
    sae.b_dec.zero_()
    sae.threshold.fill_(threshold)
    sae.cfg.metadata.site = site
    sae.cfg.metadata.model_name = model_name
    sae.save_model(folder)
    return str(folder)


def answers(model: HookedModel, facts: list[Fact]) -> list[str]:
    """First words of the answers, each once."""
    return list(dict.fromkeys(fact.answer.split()[0] for fact in facts))


def planted_directions(model: HookedModel, concept, folder: Path) -> tuple[str, dict[str, int]]:
    """At what layer 1's MLP adds: one feature for every answer written there (those of the forget and far facts).

    Between them stand features that never fire. Returns the folder, and the feature of every answer's first word.
    """
    words = answers(model, [*concept.forget, *concept.far])
    says = model.unembedding.detach()[[token(model, word) for word in words]]
    rows = torch.nn.functional.normalize(says.float(), dim=-1)
    width = rows.shape[1]
    detectors, decoder = torch.zeros(width, 3 * len(words)), torch.zeros(3 * len(words), width)
    detectors[:, ::3], decoder[::3] = torch.linalg.pinv(rows), rows
    silent = torch.randn(len(words), width, generator=torch.Generator().manual_seed(0))
    decoder[1::3] = torch.nn.functional.normalize(silent, dim=-1)
    bias = torch.zeros(len(decoder))
    return save_sae(folder, "L1.mlp_out", detectors, decoder, 0.5, bias), {w: 3 * i for i, w in enumerate(words)}


def word_features(model: HookedModel, words: list[str], folder: Path) -> str:
    """At the embeddings: feature i fires on word i and nowhere else, and writes that word's embedding."""
    table = model.hf.get_input_embeddings().weight.detach().float()
    ids = [token(model, word) for word in words]
    detectors = torch.linalg.pinv(table)[:, ids]
    scores = table @ detectors
    return save_sae(folder, "L0.resid_pre", detectors, table[ids], bias=-scores.topk(2, dim=0).values.mean(0))
