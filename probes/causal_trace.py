"""Causal trace: putting which inner state back restores an answer that a corrupted subject has destroyed?

Source: Meng et al. 2022 (ROME), https://arxiv.org/abs/2202.05262: corrupt the subject's token embeddings, restore one
clean state, read the answer. `replace` swaps in another subject of as many tokens instead of noise, as Zhang & Nanda
2024, https://arxiv.org/abs/2309.16042, recommend. Windows are those of the published code: layers l - w//2 to
l + ceil(w/2) - 1, clipped at the ends (w=10: l-5 to l+4; odd windows are centred). Departures: answers of many tokens
are teacher forced; a position has one role (the code counts a one-token subject as first and as last).
Read it as: indirect effect, restored minus corrupted; the total effect (clean minus corrupted, in the notes) is its
natural ceiling. Single layers (`window=1`) are honest, windows inflate peaks.
Does not show: where to edit (Hase et al. 2023, https://arxiv.org/abs/2301.04213), nor which states are necessary; and
states that restore any subject look like states that hold this one: hold it against the same trace of the near facts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from workbench.concepts import FactSet
from workbench.model import HookedModel
from workbench.patching import Patch, patch_each
from workbench.registry import Method
from workbench.scoring import batch_of, chunks, token_scores
from workbench.sites import Site
from workbench.tokens import Encoded
from workbench.trace import Trace

EMBED = Site(None, "embed")

ROLES = {
    "first subject": "the subject's first token, when it has more than one",
    "middle subject": "the subject's tokens between first and last, mean over them",
    "last subject": "the subject's last token",
    "following": "prompt tokens after the subject but the last one, mean over them",
    "last prompt": "the prompt's last token; with answers of many tokens all positions that predict one, together",
}
"""Every role a position can have; what comes later in this table wins."""


@dataclass(frozen=True)
class Cell:
    """One restoration: these sites, at these positions, together. Without positions nothing is restored."""

    sites: tuple[Site, ...]
    """What is put back to its clean value."""
    positions: tuple[int, ...]
    """Where."""


class CausalTrace(Method):
    """Indirect effect of every layer and kind of state, by the role of the token."""

    parts: tuple[Literal["resid_post", "mlp_out", "attn_out"], ...] = ("resid_post", "mlp_out", "attn_out")
    """Kinds of state to restore."""
    window: int = Field(default=1, ge=1)
    """Layers restored together, for MLP and attention; the residual stream is always restored at one layer."""
    corruption: Literal["replace", "noise"] = "replace"
    """Swap the subject for another fact's subject of as many tokens, or add Gaussian noise to its embeddings."""
    noise_scale: float = 3.0
    """For noise: its size, in standard deviations of the subjects' token embeddings."""
    samples: int = Field(default=2, ge=1)
    """Corrupted copies of each fact, over which scores are averaged; with noise 10 is usual."""
    metric: Literal["probability", "logprob"] = "probability"
    """Of the whole answer. Log-probability also shows what pushes a small probability further down."""
    normalised: bool = False
    """Divide by the mean total effect over the facts, so that 1 is complete restoration."""
    max_facts: int = Field(default=100, ge=1)
    """Trace at most this many facts, the first."""
    seed: int = 0
    """Of the noise, or of the choice of replacements; all cells of a fact share one corruption."""

    @torch.no_grad()
    def look(self, model: HookedModel, facts: FactSet) -> Trace:
        """Trace every fact; one that no other subject can replace is NaN."""
        facts = facts.model_copy(update={"facts": facts.facts[: self.max_facts]})
        about, encoded = model.about(facts), model.encode(facts.facts)
        corrupted = self._corrupted(model, facts, encoded)
        sites = [Site(layer, part) for part in self.parts for layer in range(model.n_layers)]
        windows = [self._window(site, model.n_layers) for site in sites]
        effects = np.full((len(sites), len(ROLES), len(facts)), np.nan)
        clean, broken = np.full((2, len(facts)), np.nan)
        for f, one in enumerate(encoded):
            if len(corrupted[f]):
                clean[f], broken[f], effects[:, :, f] = self._trace(model, one, corrupted[f], windows)
        total = clean - broken
        traced = total[~np.isnan(total)]
        if self.normalised:
            effects /= traced.mean() if len(traced) and abs(traced.mean()) > 1e-3 else np.nan
        labels = {"site": tuple(map(str, sites)), "role": tuple(ROLES), "fact": facts.labels}
        units = "share of the total effect" if self.normalised else {"logprob": "nats"}.get(self.metric, self.metric)
        return Trace(
            "causal_trace",
            effects,
            ("site", "role", "fact"),
            units,
            labels,
            about
            | {
                "options": self.spec(),
                "clean": _or_none(clean),
                "corrupted": _or_none(broken),
                "total_effect": _or_none(total),
                "mean_total_effect": float(traced.mean()) if len(traced) else None,
                "not_traced": [fact for fact, t in zip(labels["fact"], total, strict=True) if np.isnan(t)],
                "axes": {"role": ROLES, "site": "the state restored, or the middle of the window restored"},
            },
        )

    def _corrupted(
        self, model: HookedModel, facts: FactSet, encoded: Sequence[Encoded]
    ) -> list[Float[Tensor, "sample subject d_model"]]:
        """What stands in for the subject's embeddings, a few versions a fact; none where no subject fits."""
        own = subject_embeddings(model, encoded)
        if self.corruption == "replace":
            return [
                torch.stack([own[j] for j in chosen]) if chosen else own[f][None][:0]
                for f, chosen in enumerate(replacements(facts, encoded, self.samples, self.seed))
            ]
        spread = self.noise_scale * torch.cat(own).float().std()
        noised = []
        for one in own:
            noise = torch.randn(self.samples, *one.shape, generator=torch.Generator().manual_seed(self.seed))
            noised.append((one + spread * noise).to(one.dtype))
        return noised

    def _trace(
        self,
        model: HookedModel,
        encoded: Encoded,
        corrupted: Float[Tensor, "sample subject d_model"],
        windows: Sequence[tuple[Site, ...]],
    ) -> tuple[float, float, Float[np.ndarray, "site role"]]:
        """Clean score, corrupted score and indirect effects of one fact."""
        roles = roles_of(encoded)
        cells = [Cell((), ()), Cell((EMBED,), encoded.subject)]  # nothing restored; everything restored
        cells += [Cell(window, positions) for window in windows for _, positions in roles]
        logprobs = restored_logprobs(model, encoded, corrupted, cells).double()
        scores = (logprobs.exp() if self.metric == "probability" else logprobs).mean(dim=1).numpy()
        by_position = (scores[2:] - scores[0]).reshape(len(windows), len(roles))
        effects = np.full((len(windows), len(ROLES)), np.nan)
        for i, role in enumerate(ROLES):
            columns = [j for j, (name, _) in enumerate(roles) if name == role]
            if columns:
                effects[:, i] = by_position[:, columns].mean(axis=1)
        return float(scores[1]), float(scores[0]), effects

    def _window(self, site: Site, n_layers: int) -> tuple[Site, ...]:
        assert site.layer is not None
        width = 1 if site.part == "resid_post" else self.window
        return tuple(Site(layer, site.part) for layer in window_layers(site.layer, width, n_layers))


def restored_logprobs(
    model: HookedModel, encoded: Encoded, corrupted: Float[Tensor, "sample subject d_model"], cells: Sequence[Cell]
) -> Float[Tensor, "cell sample"]:
    """Log-probability (nats) of the answer under every corruption, with each cell's sites put back to clean.

    Args:
        model: the model.
        encoded: prompt and answer.
        corrupted: embeddings put at the subject's positions, one set a sample.
        cells: restorations; many share a forward pass, each row restoring its own.
    """
    batch, targets = batch_of([encoded])
    sites = sorted({site for cell in cells for site in cell.sites}, key=str)
    clean = model.run(batch, read=sites, logits=False).acts
    patches = [
        [Patch(site, cell.positions, clean[site][0, list(cell.positions)]) for site in cell.sites] for cell in cells
    ]
    kept, answer = targets.position.tolist(), partial(_answer_logprob, targets.token)
    columns = [
        patch_each(
            model, encoded.ids, patches, kept=kept, under=[Patch(EMBED, encoded.subject, broken)], measure=answer
        )
        for broken in corrupted
    ]
    return torch.stack(columns, dim=1)


def _answer_logprob(tokens: Int[Tensor, " kept"], logits: Float[Tensor, "row kept vocab"]) -> Float[Tensor, " row"]:
    logprob, _, _ = token_scores(logits.float().flatten(0, 1), tokens.repeat(len(logits)))
    return logprob.view(len(logits), -1).sum(dim=1)


def subject_embeddings(model: HookedModel, encoded: Sequence[Encoded]) -> list[Float[Tensor, "_ d_model"]]:
    """Clean token embeddings of each fact's subject."""
    rows = [row for batch, _ in chunks(encoded) for row in model.run(batch, read=[EMBED], logits=False).acts[EMBED]]
    return [row[list(one.subject)].cpu() for row, one in zip(rows, encoded, strict=True)]


def replacements(facts: FactSet, encoded: Sequence[Encoded], samples: int, seed: int) -> list[list[int]]:
    """For each fact, up to `samples` facts whose subjects can stand in for its own.

    They have as many tokens and, as far as the facts say, another answer to what is asked; those that are asked the
    same come first, because they stay closest to the text the model knows.
    """
    answers = {(fact.subject, fact.relation, fact.answer) for fact in facts}
    chosen = []
    for f, fact in enumerate(facts):
        order = torch.randperm(len(facts), generator=torch.Generator().manual_seed(seed)).tolist()
        order.sort(key=lambda j: facts.facts[j].relation != fact.relation)
        fitting: dict[str, int] = {}
        for j in order:
            other = facts.facts[j].subject
            alike = (other, fact.relation, fact.answer) in answers  # the fact's own subject is alike too
            if len(encoded[j].subject) == len(encoded[f].subject) and not alike:
                fitting.setdefault(other, j)
        chosen.append(list(fitting.values())[:samples])
    return chosen


def roles_of(encoded: Encoded) -> list[tuple[str, tuple[int, ...]]]:
    """The role of every position from the subject on, with the positions restored together (see `ROLES`)."""
    last = encoded.answer_start - 1
    start, end = encoded.subject[0], encoded.subject[-1]
    names = {start: "first subject", end: "last subject"}
    roles = [(names.get(p, "middle subject" if p < end else "following"), (p,)) for p in range(start, last)]
    return [*roles, ("last prompt", tuple(range(last, len(encoded.ids) - 1)))]


def window_layers(layer: int, width: int, n_layers: int) -> range:
    """The layers of a window, as in the published code (the paper's text shifts even widths up by one)."""
    return range(max(0, layer - width // 2), min(n_layers, layer + (width + 1) // 2))


def _or_none(values: Float[np.ndarray, " n"]) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]
