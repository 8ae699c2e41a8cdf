"""Which of our functions, on which positions, is which published loss: one line for every stored record and variant."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from interventions.gradient.losses.as_published import muse_kl, muse_npo, wagle_kl
from interventions.gradient.losses.ascent import ascent
from interventions.gradient.losses.ceu import ce_u
from interventions.gradient.losses.dpo import dpo
from interventions.gradient.losses.flat import flat
from interventions.gradient.losses.graddiff import grad_diff, with_retain
from interventions.gradient.losses.ihl import ihl
from interventions.gradient.losses.kl import forward_kl, reverse_kl
from interventions.gradient.losses.npo import npo
from interventions.gradient.losses.pdu import flatness, pdu
from interventions.gradient.losses.said import Said
from interventions.gradient.losses.satimp import satimp
from interventions.gradient.losses.simnpo import simnpo
from interventions.gradient.losses.undial import undial
from interventions.gradient.losses.wga import wga

GOLDEN = Path(__file__).parents[2] / "golden"
RECORDS = {r["id"]: r for r in json.loads((GOLDEN / "unlearning_losses.json").read_text())["records"]}
RAW = load_file(GOLDEN / "raw_logits.safetensors")
BATCHES = load_file(GOLDEN / "batches.safetensors")
PARTS = ("forget", "retain", "idk")


@dataclass(frozen=True)
class Case:
    """What a loss may need: logits of the model in training and of the reference, labels, ids and mask, by part."""

    logits: dict[str, Tensor]
    reference: dict[str, Tensor]
    labels: dict[str, Tensor]
    ids: dict[str, Tensor]
    mask: dict[str, Tensor]

    def said(self, part: str) -> Said:
        return Said.of(self.logits[part], self.labels[part])

    def before(self, part: str) -> Said:
        return Said.of(self.reference[part], self.labels[part])

    def original(self, part: str) -> Tensor:
        return -self.before(part).total

    @property
    def retain_kl_everywhere(self) -> Tensor:
        return forward_kl(self.logits["retain"].flatten(0, 1), self.reference["retain"].flatten(0, 1))


def raw() -> Case:
    return Case(
        {part: RAW[f"cur.{part}_logits"].clone().requires_grad_(True) for part in PARTS},
        {part: RAW[f"ref.{part}_logits"] for part in PARTS},
        {part: RAW[f"labels.{part}"] for part in PARTS},
        {},
        {part: torch.ones_like(RAW[f"labels.{part}"]) for part in PARTS},
    )


def _npo(c: Case, beta: float, **_: Any) -> Tensor:
    return npo(c.said("forget"), c.original("forget"), beta)


def _dpo(c: Case, published: bool, beta: float = 0.1, **_: Any) -> Tensor:
    return dpo(c.said("idk"), c.said("forget"), c.original("idk"), c.original("forget"), beta, published)


def _retain(c: Case) -> Tensor:
    return c.said("retain").mean


def _undial(c: Case, labels: Tensor, strength: float) -> Tensor:
    return undial(Said.of(c.logits["forget"], labels), Said.of(c.reference["forget"], labels).logits, strength)


def _undial_slip(c: Case, beta: float, **_: Any) -> Tensor:
    """OpenUnlearning: all positions, the label -100 read as an index from the end of the vocabulary."""
    labels, vocab = c.labels["forget"], c.logits["forget"].shape[-1]
    return _undial(c, labels.where(labels != -100, vocab - 100), beta)


def _undial_no_slip(c: Case, beta: float, **_: Any) -> Tensor:
    """All positions, a penalty only where there is a label."""
    labels = c.labels["forget"]
    rest = torch.where(labels == -100, 0, -100)
    n, others = len(c.said("forget").token), len(Said.of(c.logits["forget"], rest).token)
    return (n * _undial(c, labels, beta) + others * _undial(c, rest, 0.0)) / (n + others)


def _simnpo_repo(c: Case, a: dict[str, Any]) -> Tensor:
    return simnpo(c.said("forget"), a["beta"], a["gamma(delta)"])


def _unshifted(c: Case) -> Tensor:
    return flatness(c.logits["forget"][c.labels["forget"] != -100])


def _flat(c: Case, divergence: Any, everywhere: bool) -> Tensor:
    sizes = [c.labels[part].shape for part in ("forget", "idk")]
    positions = tuple(rows * (length - 1) for rows, length in sizes) if everywhere else None
    return flat(c.said("forget"), c.said("idk"), divergence, positions)


def _join(c: Case, forget: Tensor, a: dict[str, Any]) -> Tensor:
    return with_retain(forget, _retain(c), a["gamma"], a["alpha"])


def _muse_npo(c: Case, a: dict[str, Any]) -> Tensor:
    return muse_npo(c.logits["forget"].flatten(0, 1), c.reference["forget"].flatten(0, 1), a["beta"])


def _muse_kl(c: Case) -> Tensor:
    reference = c.reference["retain"]
    return muse_kl(c.logits["retain"].flatten(0, 1), reference.flatten(0, 1), len(reference))


def _wagle_kl(c: Case, part: str) -> Tensor:
    return wagle_kl(c.logits[part].flatten(0, 1), c.reference[part].flatten(0, 1))


def _jensen_shannon(c: Case) -> Tensor:
    """The published code takes log 2, twice, in float32 whatever the rest is in."""
    rounded = 2 * (float(torch.tensor(2.0).log()) - math.log(2))
    return _flat(c, "jensen-shannon", everywhere=True) - rounded


Reproduced = Callable[[Case, dict[str, Any]], Tensor]

PUBLISHED: dict[str, Reproduced] = {
    "ga": lambda c, a: ascent(c.said("forget")),
    "graddiff_nll": lambda c, a: grad_diff(c.said("forget"), _retain(c), a["gamma"], a["alpha"]),
    "graddiff_nll_weighted": lambda c, a: grad_diff(c.said("forget"), _retain(c), a["gamma"], a["alpha"]),
    "graddiff_kl": lambda c, a: grad_diff(c.said("forget"), c.retain_kl_everywhere, a["gamma"], a["alpha"]),
    "kl_retain": lambda c, a: c.retain_kl_everywhere,
    "npo_forget": lambda c, a: _npo(c, **a),
    "npo": lambda c, a: _join(c, _npo(c, **a), a),
    "npo_kl": lambda c, a: with_retain(_npo(c, **a), c.retain_kl_everywhere, a["gamma"], a["alpha"]),
    "simnpo": lambda c, a: _join(c, simnpo(c.said("forget"), a["beta"], a["delta"]), a),
    "simnpo_delta": lambda c, a: _join(c, simnpo(c.said("forget"), a["beta"], a["delta"]), a),
    "dpo": lambda c, a: _join(c, _dpo(c, published=True, beta=a["beta"]), a),
    "undial": lambda c, a: _undial_slip(c, **a),
    "undial_beta3": lambda c, a: _undial_slip(c, **a),
    "wga_beta1": lambda c, a: _join(c, wga(c.said("forget"), a["beta"]), a),
    "wga_beta5": lambda c, a: _join(c, wga(c.said("forget"), a["beta"]), a),
    "wga_forget": lambda c, a: wga(c.said("forget"), a["beta"]),
    "satimp": lambda c, a: _join(c, satimp(c.said("forget"), a["beta1"], a["beta2"]), a),
    "satimp_forget": lambda c, a: satimp(c.said("forget"), a["beta1"], a["beta2"]),
    "ceu_skip0": lambda c, a: ce_u(c.said("forget"), a["ignore_first_n_answer_tokens"]),
    "ceu_skip1": lambda c, a: ce_u(c.said("forget"), a["ignore_first_n_answer_tokens"]),
    "pdu": lambda c, a: pdu(_unshifted(c), _retain(c), a["lambda"], a["retain_loss_eps"], a["gamma"]),
    "repo_npo.npo": lambda c, a: _npo(c, **a),
    "repo_npo.npo_grad_diff": lambda c, a: with_retain(_npo(c, **a), _retain(c)),
    "repo_npo.npo_KL": lambda c, a: with_retain(_npo(c, **a), c.retain_kl_everywhere),
    "repo_npo.KL": lambda c, a: grad_diff(c.said("forget"), c.retain_kl_everywhere),
    "repo_npo.grad_diff": lambda c, a: grad_diff(c.said("forget"), _retain(c)),
    "repo_npo.dpo": lambda c, a: _dpo(c, published=True, **a),
    "repo_npo.dpo_grad_diff": lambda c, a: with_retain(_dpo(c, published=True, **a), _retain(c)),
    "repo_simnpo.simnpo": _simnpo_repo,
    "repo_simnpo.simnpo_grad_diff": lambda c, a: with_retain(
        _simnpo_repo(c, a), _retain(c), a["npo_coeff"], a["grad_diff_coeff"]
    ),
    "repo_muse.npo": _muse_npo,
    "repo_muse.npo_gdr": lambda c, a: with_retain(_muse_npo(c, a), _retain(c)),
    "repo_muse.ga_klr": lambda c, a: grad_diff(c.said("forget"), _muse_kl(c)),
    "repo_muse.ga_gdr": lambda c, a: grad_diff(c.said("forget"), _retain(c)),
    "repo_wagle.KL": lambda c, a: with_retain(_wagle_kl(c, "forget"), _wagle_kl(c, "retain"), -a["gamma"]),
    "flat.KL": lambda c, a: _flat(c, "kl", everywhere=True),
    "flat.Reverse-KL": lambda c, a: _flat(c, "reverse-kl-published", everywhere=True),
    "flat.Jeffrey": lambda c, a: _flat(c, "jeffrey", everywhere=True),
    "flat.Squared-Hellinger": lambda c, a: _flat(c, "squared-hellinger-published", everywhere=True),
    "flat.Pearson": lambda c, a: _flat(c, "pearson", everywhere=True),
    "flat.Neyman": lambda c, a: _flat(c, "neyman-published", everywhere=True),
    "flat.Jenson-Shannon": lambda c, a: _jensen_shannon(c),
    "flat.Total-Variation": lambda c, a: _flat(c, "total-variation", everywhere=True),
    "ihl": lambda c, a: with_retain(ihl(c.said("forget")), _retain(c)),
}
"""Record -> the function that gives what the published code gives."""

VARIANTS: dict[tuple[str, str], Reproduced] = {
    ("kl_retain", "answer_positions_only"): lambda c, a: forward_kl(c.said("retain").logits, c.before("retain").logits),
    ("kl_retain", "no_padding"): lambda c, a: forward_kl(
        c.logits["retain"][c.mask["retain"].bool()], c.reference["retain"][c.mask["retain"].bool()]
    ),
    ("kl_retain", "reverse"): lambda c, a: reverse_kl(
        c.logits["retain"].flatten(0, 1), c.reference["retain"].flatten(0, 1)
    ),
    ("npo", "token_mean_ratio"): lambda c, a: npo(c.said("forget"), c.original("forget"), a["beta"], per_token=True),
    ("dpo", "without_2_over_beta"): lambda c, a: _dpo(c, published=False, beta=a["beta"]),
    ("undial", "authors_original_code"): lambda c, a: _undial(c, c.ids["forget"], a["beta"]),
    ("undial", "answer_positions_only"): lambda c, a: _undial(c, c.labels["forget"], a["beta"]),
    ("undial", "all_positions_no_index_slip"): lambda c, a: _undial_no_slip(c, **a),
    ("undial_beta3", "authors_original_code"): lambda c, a: _undial(c, c.ids["forget"], a["beta"]),
    ("undial_beta3", "answer_positions_only"): lambda c, a: _undial(c, c.labels["forget"], a["beta"]),
    ("undial_beta3", "all_positions_no_index_slip"): lambda c, a: _undial_no_slip(c, **a),
    ("satimp", "class_defaults"): lambda c, a: with_retain(satimp(c.said("forget")), _retain(c), 1.0, 0.1),
    ("pdu", "shifted_forget_term"): lambda c, a: flatness(c.said("forget").logits),
    ("pdu", "unshifted_forget_term"): lambda c, a: _unshifted(c),
    ("repo_muse.npo", "npo_paper"): lambda c, a: _npo(c, **a),
    ("repo_muse.ga_klr", "kl_paper"): lambda c, a: grad_diff(c.said("forget"), c.retain_kl_everywhere),
    ("flat.KL", "label_positions_only"): lambda c, a: _flat(c, "kl", everywhere=False),
    ("flat.Pearson", "label_positions_only"): lambda c, a: _flat(c, "pearson", everywhere=False),
    ("flat.Total-Variation", "label_positions_only"): lambda c, a: flat(c.said("forget"), c.said("idk")),
    ("ihl", "forget_term"): lambda c, a: ihl(c.said("forget")),
}
"""Record and variant of it -> the function that gives the variant."""

PLAIN = ("batch_nll", "pdu_dual_update", "repo_tofu.dpo", "whp_target_alpha1", "whp_target_alpha5")
"""Records that are no loss with a gradient, each tested by name."""


def fingerprint(gradient: Tensor) -> float:
    """The gradient's product with cos 0, cos 1, cos 2, ..."""
    flat_gradient = gradient.reshape(-1)
    return float(flat_gradient @ torch.arange(len(flat_gradient), dtype=torch.float64).cos().to(flat_gradient))


def cases(kind: str) -> list[Any]:
    """(record, variant or "published", stored values, tolerances, function) for every stored loss of a kind."""
    found = []
    for name, function in PUBLISHED.items():
        record = RECORDS[f"loss.{name}.{kind}"]
        found.append((name, "published", record["published"], record, function))
        for variant, stored in record.get("variants", {}).items():
            found.append((name, variant, stored["value"], record, VARIANTS[name, variant]))
    return found


def names(case: Any) -> str:
    return f"{case[0]}-{case[1]}"
