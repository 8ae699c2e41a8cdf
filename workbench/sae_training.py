"""Train a sparse autoencoder (SAE) on the spot, on one site of one model, and keep it for the next time.

SAELens trains it (`workbench.saes.fit_sae`), fed from the model's own hooks. What comes out is an ordinary SAELens
folder; its metadata says which model and which site it was made for and how good it is on the tokens it was made from.

Read it as: `folder = train_sae(model, site, texts=concept.text, facts=concept.forget.facts)`, then `load_sae(folder)`.
The same checkpoint, site, tokens and options give the same folder again, from the cache.
Does not show: that the features are more than a memory of the few tokens it saw; an SAE of use on other text needs
millions of tokens. Its `explained_variance` is measured on its own training tokens.
"""

import hashlib
import json
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.cache import cache_folder
from workbench.concepts import Fact
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.sae_reading import read_features, site_values
from workbench.saes import SaeOptions, dictionary_of, fit_sae, load_sae
from workbench.sites import Site
from workbench.store import write_json
from workbench.tokens import encode_text

CONTEXT = 256
"""Longer texts are cut into rows of that many tokens."""

KEPT = 2**17
"""Up to so many tokens, their values are held in memory; else the model is run again every time round."""

Progress = Callable[[int, int], None]
"""Called with how many updates are done and of how many."""


def train_sae(
    model: HookedModel,
    site: Site,
    *,
    facts: Sequence[Fact] = (),
    texts: Sequence[str] = (),
    options: SaeOptions | None = None,
    progress: Progress | None = None,
) -> Path:
    """Train an SAE on a site's values at the tokens of facts and texts, or find the one trained before.

    Returns:
        Its folder, as `load_sae` opens it.

    Raises:
        BadInput: when there is no token to train on, or the site does not exist.
    """
    chosen = options or SaeOptions()
    rows = token_rows(model, facts, texts)
    width = model.width(site)
    if not rows or site.index is not None:
        raise BadInput(
            f"Cannot train an SAE at {site} on {len(facts)} facts and {len(texts)} texts: it takes a site of more than "
            "one number (no [index]) and at least one text or fact with tokens of its own"
        )
    if chosen.kind in ("topk", "batchtopk") and chosen.k > chosen.width * width:
        raise BadInput(f"k={chosen.k} features cannot be active of {chosen.width * width}: take a smaller k")
    question = [model.identity, str(site), chosen.model_dump(mode="json"), rows]
    digest = hashlib.sha256(json.dumps(question).encode()).hexdigest()
    folder = cache_folder() / "saes" / digest[:24]
    if not (folder / "cfg.json").is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as unfinished:
            made = Path(unfinished) / "sae"
            fit_sae(_endless(model, site, rows, chosen.seed), width, chosen, made, model.device, progress)
            _describe(model, site, rows, chosen, made)
            _settle(made, folder)
    return folder


def token_rows(model: HookedModel, facts: Sequence[Fact], texts: Sequence[str]) -> list[tuple[int, ...]]:
    """Token ids of facts (prompt and answer) and of texts, long ones cut; rows of special tokens alone are left out."""
    whole = [encoded.ids for encoded in model.encode(facts)] + [encode_text(model.tokenizer, text) for text in texts]
    special = set(model.tokenizer.all_special_ids)
    cut = [ids[start : start + CONTEXT] for ids in whole for start in range(0, len(ids), CONTEXT)]
    return [row for row in cut if set(row) - special]


def _endless(
    model: HookedModel, site: Site, rows: Sequence[tuple[int, ...]], seed: int
) -> Iterator[Float[Tensor, "token width"]]:
    """The site's values, round after round, each in a new order."""
    generator = torch.Generator().manual_seed(seed)
    if sum(map(len, rows)) <= KEPT:
        kept = torch.cat([values.float() for values, _ in site_values(model, site, rows)])
        while True:
            yield kept[torch.randperm(len(kept), generator=generator).to(kept.device)]
    while True:
        order = torch.randperm(len(rows), generator=generator).tolist()
        for values, _ in site_values(model, site, [rows[i] for i in order]):
            yield values.float()


def _describe(
    model: HookedModel, site: Site, rows: Sequence[tuple[int, ...]], options: SaeOptions, folder: Path
) -> None:
    """Write into the SAE's own metadata what it was made for and how good it is on its training tokens."""
    reading = read_features(model, site, dictionary_of(load_sae(folder), model.device), rows)
    file = folder / "cfg.json"
    config: dict[str, Any] = json.loads(file.read_text())
    config["metadata"] |= {
        "model_name": model.name,
        "model_digest": model.identity,
        "site": str(site),
        "options": options.model_dump(mode="json"),
        "tokens": int(reading.tokens.sum()),
        "explained_variance": None if math.isnan(reading.explained) else reading.explained,
        "l0": reading.active,
        "dead_features": int((reading.fired.sum(dim=0) == 0).sum()),
    }
    write_json(file, config)


def _settle(made: Path, folder: Path) -> None:
    """Move what was made into its place at once; whoever was there first stays."""
    try:
        made.rename(folder)
    except OSError:
        if not (folder / "cfg.json").is_file():
            raise
