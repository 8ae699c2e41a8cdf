"""Projection erasure: parts of the model are stopped from writing what tells the forget facts' answers apart (LEACE).

Source: LEACE, Belrose et al. 2023, https://arxiv.org/abs/2306.03819 (`workbench.erasure`: the theorem, not the
published code's shrinkage). Folding it into the weights that write is this workbench's choice; the paper hooks the
stream ("concept scrubbing") and, as here, fits a layer only after all earlier ones are erased.
How: for every chosen part (attention or MLP of a layer) the eraser P is fitted to what the part adds to the stream at
the forget facts' last subject tokens (`position="end"`: where the answer is predicted), with the answer as the label.
It is folded into the part's output matrix: W becomes P W, b becomes P b; of a mixture into the down-projections of all
experts, routed and shared. With a bias that every token gets in full (GPT-2, GPT-NeoX, Phi) the mean is kept
(the affine LEACE); elsewhere the map is linear and the mean of what is written moves as well.
Why the answer as label: what must go is that the answer can be read. Erasing "forget or retain" would remove the one
direction that tells the sets apart and leave every answer where it is.
Which P: of all maps that do this the one that moves least what the part writes at all tokens of the forget and retain
facts (`workbench.sparing_erasure`). Plain LEACE (`spare=False`) moves only the fitted states little; it reads its
directions off where those few hardly vary, and folded into weights it wrecks everything else that the part writes.
Guaranteed: on the wordings it was fitted on (prompts and `paraphrases`), what each chosen part adds at that position
has no covariance with the answers, so under no convex loss does a linear reader of any sum of chosen parts do better
than always saying how common each answer is. With `position="end"`, all parts chosen and prompts whose last token (and
its position, where positions are learnt) is the same, this is true of the whole stream there. `told_after` in the
notes is what rounding of the weights leaves.
Holds where no norm stands between the matrix and the stream; Gemma 2 and 3 and OLMo 2 are refused.
Expect: the model gives the same answer to many forget facts, so that one or two stay right.
Cannot do: erase what the skip connection carries past (the embeddings, the parts that were not chosen), or hide the
answer from readers that are not linear. Spare near facts whose answers the same part writes with the same vectors: a
map of what is written cannot know whom it is about, so look at `near`, and choose parts that a localiser names.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import one_hot

from interventions.gradient.descend import Progress
from interventions.retaining import retain_facts
from workbench.concepts import Concept, Fact
from workbench.edits import WeightEdit, fit_weights
from workbench.erasure import Eraser, leace
from workbench.errors import BadInput, RunError
from workbench.intervention import Intervention
from workbench.model import HookedModel
from workbench.sites import Site
from workbench.sparing_erasure import between, sparing, spread
from workbench.tokens import Encoded
from workbench.writers import everywhere, fold, keeps_mean, parts_of, writers_of, written

LEFT = 1e-3
"""Share of a part's former variance that may still lie between the answers, beside what is rounding."""


class ProjectionErasure(Intervention):
    """LEACE folded into the weights that write to the residual stream."""

    localised: ClassVar[bool] = True

    position: Literal["subject", "end"] = "subject"
    """Token at which it is fitted: the subject's last, or the prompt's last."""
    paraphrases: bool = True
    """Fit on the facts' paraphrases too."""
    spare: bool = True
    """Move what is written at all tokens of forget and retain facts as little as possible; else plain LEACE."""

    def fit(
        self,
        model: HookedModel,
        concept: Concept,
        where: Sequence[Site] | None = None,
        *,
        progress: Progress | None = None,
    ) -> WeightEdit:
        """Fold the erasers in, part by part from below, and return what changed.

        Args:
            model: unchanged afterwards.
            concept: forget facts with at least two different answers; nothing else is used.
            where: parts that may no longer tell the answers (a neuron or expert stands for its MLP, a head for its
                attention, `L3.resid_post` for both); None for all parts of all layers.
            progress: called after every part with its number and the share of variance that lay between answers.

        Raises:
            BadInput: for sites that write nothing, an architecture with a norm behind a part, or nothing to erase.
            RunError: when what is written is not finite, or still tells the answers afterwards.
        """
        parts = parts_of(model, where)
        names = [n for part in parts for w in writers_of(model, part) for n in (w.name, w.bias) if n is not None]
        facts = [*concept.forget.facts, *(concept.forget.reworded("paraphrases") if self.paraphrases else ())]
        labels, encoded = answers_of(facts), model.encode(facts)
        spared, note = _spared(concept) if self.spare else ((), "nothing: plain LEACE")
        others = model.encode(spared)

        def erase() -> dict[str, Any]:
            rows = []
            for number, part in enumerate(parts, start=1):
                rows.append(self._erase(model, part, encoded, labels, others))
                if progress:
                    progress(number, rows[-1]["told_before"])
            return {
                "parts": rows,
                "position": self.position,
                "wordings": len(facts),
                "answers": labels.shape[1],
                "spared": note,
            }

        edit = fit_weights(model, names, erase, self.spec())
        if not edit.changes:
            raise BadInput(
                f"projection_erasure would change nothing: {', '.join(map(str, parts))} write nothing that tells the "
                f"answers apart at the {self.position} token. Choose other sites, or the other position"
            )
        return edit

    def _erase(
        self,
        model: HookedModel,
        part: Site,
        encoded: Sequence[Encoded],
        labels: Float[Tensor, "n k"],
        others: Sequence[Encoded],
    ) -> dict[str, Any]:
        """Fit to what one part writes now, fold it in, and see that it holds."""
        before = written(model, part, encoded, self.position)
        if not before.isfinite().all():
            raise RunError(f"What {part} of {model.name} writes is not finite: the weights are damaged")
        rounding = (8 * torch.finfo(writers_of(model, part)[0].rows.dtype).eps) ** 2 * float(before.square().sum())
        row = {"part": str(part), "rank": 0, "told_before": between(before, labels), "told_after": 0.0}
        if spread(before) <= rounding:  # it writes the same for every fact; what differs is the machine's
            return {**row, "told_before": 0.0}
        eraser = self._eraser(model, part, before, encoded, labels, others)
        fold(model, part, eraser)
        after = written(model, part, encoded, self.position)
        left = between(after, labels) * spread(after)
        if left > max(LEFT * spread(before), rounding):
            raise RunError(
                f"{part} of {model.name} still tells the answers after the erasure ({left / spread(before):.2g} of the "
                "variance of what it wrote): its weights are not what it writes by, or their dtype is too coarse"
            )
        return {**row, "rank": int(eraser.rank), "told_after": left / spread(before)}

    @staticmethod
    def _eraser(
        model: HookedModel,
        part: Site,
        states: Float[Tensor, "n d"],
        encoded: Sequence[Encoded],
        labels: Float[Tensor, "n k"],
        others: Sequence[Encoded],
    ) -> Eraser:
        affine = keeps_mean(model, part)
        if not others:
            return leace(states, labels, affine=affine)
        return sparing(states, labels, everywhere(model, part, [*encoded, *others]), affine=affine)


def _spared(concept: Concept) -> tuple[Sequence[Fact], str]:
    return retain_facts(concept, ", or set spare=False")


def answers_of(facts: Sequence[Fact]) -> Float[Tensor, "n k"]:
    """One-hot answers of facts.

    Raises:
        BadInput: when all have the same answer: then there is nothing to tell apart.
    """
    known = sorted({fact.answer for fact in facts})
    if len(known) < 2:
        raise BadInput(
            f"The forget facts have {len(known)} different answers; projection_erasure takes away what tells answers "
            "apart, so it needs at least two. Add forget facts, or choose another method"
        )
    return one_hot(torch.tensor([known.index(fact.answer) for fact in facts]), len(known)).double()
