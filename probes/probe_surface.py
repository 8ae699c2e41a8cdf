"""Residualised states: what the wording alone explains of them is taken out before a probe is trained.

Source: cross-validated confound regression of Snoek, Miletic & Scholte 2019,
https://doi.org/10.1016/j.neuroimage.2018.09.074: a least-squares regression of the states on what must not count,
fitted on the training rows only and subtracted from all; fitted on all rows it would push accuracy below chance.
Variant: what must not count is the surface of the prompt: which wording of which relation it is (those that fewer
than `SHARED` training subjects have are taken together), how many tokens the prompt has, and how many its subject.
Read it as: accuracy that stays is not owed to templates and lengths; what falls was.
Does not show: that it is not owed to the names. Names have as many features as there are subjects, and a regression on
them would take out everything, the answers too; subjects are kept apart between training and test instead.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probes.probe_rows import Rows, wordings
from workbench.concepts import Fact
from workbench.model import HookedModel

SHARED = 5
"""Training subjects a wording needs to be taken out by itself: the mean of fewer would hold their answers."""


@dataclass(frozen=True)
class Surface:
    """What can be seen of every row without a model."""

    wording: Int[Tensor, " row"]
    """The prompt without its subject, as a number; the same text in two relations is two."""
    lengths: Float[Tensor, "row 2"]
    """Tokens of the prompt, and of the subject."""


def surface_of(model: HookedModel, facts: Sequence[Fact]) -> Surface:
    """The surface of the rows that `read_rows` reads of these facts."""
    worded = [fact for _, _, fact in wordings(facts)]
    texts = [(fact.relation, fact.prompt.replace(fact.subject, "\0")) for fact in worded]
    known = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    lengths = [(float(e.answer_start), float(len(e.subject))) for e in model.encode(worded)]
    return Surface(torch.tensor([known[text] for text in texts]), torch.tensor(lengths))


def residualised(rows: Rows, train: Bool[Tensor, " row"], surface: Surface) -> Rows:
    """The rows without what their surface explains, by a regression fitted on the training rows."""
    features = _features(rows, train, surface)
    told = torch.linalg.pinv(features[train]) @ rows.states[:, train].cpu().double()
    return replace(rows, states=rows.states - (features @ told).to(rows.states))


def _features(rows: Rows, train: Bool[Tensor, " row"], surface: Surface) -> Float[Tensor, "row feature"]:
    """One column a group of wordings, and the two lengths."""
    group = _groups(rows, train, surface)
    lengths = surface.lengths.double()
    scale = lengths[train].std(dim=0, correction=0)
    lengths = (lengths - lengths[train].mean(dim=0)) / scale.where(scale > 0, 1.0)
    return torch.cat([(group[:, None] == group[train].unique()).double(), lengths], dim=1)


def _groups(rows: Rows, train: Bool[Tensor, " row"], surface: Surface) -> Int[Tensor, " row"]:
    """A group for each wording that enough training subjects share, and for the rest of each relation.

    A rest that few share goes with the relation's commonest wording.
    """
    relation, subject = rows.relation[rows.fact], rows.subject[rows.fact]
    having: dict[int, set[int]] = defaultdict(set)
    for wording, who in zip(surface.wording[train].tolist(), subject[train].tolist(), strict=True):
        having[wording].add(who)
    shared = {wording for wording, who in having.items() if len(who) >= SHARED}
    rare = ~torch.isin(surface.wording, torch.tensor(sorted(shared), dtype=torch.long))
    group, beyond = surface.wording.clone(), int(surface.wording.max()) + 1
    for one in relation.unique().tolist():
        rest = rare & (relation == one)
        common = shared & set(surface.wording[relation == one].tolist())
        few = len(subject[rest & train].unique()) < SHARED
        group[rest] = max(common, key=lambda wording: len(having[wording])) if common and few else beyond + one
    return group
