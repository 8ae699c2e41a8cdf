"""Membership: how well a score tells forgotten texts from texts that were never trained on, as an area under a curve.

Scores are all signed so that higher means less likely a member (loss, loss over compressed size, Min-K%, Min-K%++,
loss less a reference's, gradient size). Formula: AUC = P(a never-seen text scores higher than a forgotten one), ties
half, as in OpenUnlearning; MUSE turns it round (1 - AUC).
Read it as: .5, cannot be told apart; near 1, still a member; near 0, unlearning left a mark of its own (the loss of the
forget set is higher than that of texts never seen), which also tells what was forgotten. `distance` counts both.
Does not show: anything when the two sets differ in kind; compare with the retrained model's AUC on the same texts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from workbench.errors import BadInput
from workbench.evidence import Estimate
from workbench.stats import bootstrap_auc
from workbench.trace import Trace


@dataclass(frozen=True)
class Membership:
    """An AUC with its interval."""

    auc: Estimate
    """Area under the curve, with a 95% interval over subjects."""
    draws: Float[np.ndarray, " draws"]
    """Bootstrap distribution, paired with another model's on the same items and seed."""

    @property
    def distance(self) -> float:
        """How far from telling nothing, 0 to .5."""
        return abs(self.auc.mean - 0.5)


def membership(
    members: Float[np.ndarray, " m"],
    others: Float[np.ndarray, " n"],
    clusters: tuple[Sequence[str], Sequence[str]],
    seed: int = 0,
    draws: int = 1000,
) -> Membership:
    """AUC of scores, higher for non-members, with a cluster-bootstrap interval.

    Args:
        members: scores of what the model was trained on.
        others: scores of what no model was trained on.
        clusters: the subject of each, in this order.
        seed: of the resampling.
        draws: number of resamples.

    Raises:
        BadInput: when a group is empty or holds a score that is not a number.
    """
    for name, values in (("members", members), ("others", others)):
        if not len(values) or np.isnan(values).any():
            raise BadInput(
                f"Membership needs a score for every text; the {name} are {len(values)}, "
                f"{int(np.isnan(values).sum())} of them without one. Leave those texts out of both models' readings"
            )
    found = bootstrap_auc(others, members, (clusters[1], clusters[0]), seed, draws)
    return Membership(found.estimate(), found.draws)


def membership_of(members: Trace, others: Trace, seed: int = 0) -> Membership:
    """The same from two stored traces of one score.

    Raises:
        BadInput: when they are not of the same score and the same model.
    """
    told = [(t.name, t.notes.get("identity"), _how(t)) for t in (members, others)]
    if told[0] != told[1]:
        raise BadInput(
            f"Membership holds two readings of one model with one method against each other; got {members.name!r} of "
            f"{members.notes.get('model')} and {others.name!r} of {others.notes.get('model')}, or other options"
        )
    return membership(members.values, others.values, (_clusters(members), _clusters(others)), seed)


def less_reference(trace: Trace, reference: Trace) -> Trace:
    """Loss less the loss of a reference model on the same texts, from two stored traces: the reference attack.

    Source: Carlini et al. 2021, https://arxiv.org/abs/2012.07805, as in OpenUnlearning. The reference should be as
    fluent and never have seen the forget set: the retrained model, or a smaller one of the same family.

    Raises:
        BadInput: when they are not readings of one kind on the same texts.
    """
    same = (trace.name, _how(trace), trace.labels, trace.notes.get("facts_digest"))
    if same != (reference.name, _how(reference), reference.labels, reference.notes.get("facts_digest")):
        raise BadInput(
            f"The reference attack needs the same reading of both models on the same texts; got {trace.name!r} and "
            f"{reference.name!r}, {trace.values.size} and {reference.values.size} texts"
        )
    notes = {**trace.notes, "reference": reference.notes.get("model")}
    values = trace.values - reference.values
    return Trace("membership_reference", values, trace.axes, trace.units, trace.labels, notes)


def _how(trace: Trace) -> object:
    return dict(trace.notes.get("options", {}))


def _clusters(trace: Trace) -> Sequence[str]:
    return tuple(trace.notes.get("subjects") or trace.labels[trace.axes[0]])
