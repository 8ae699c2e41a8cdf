"""Unlearning depth: at which layers can the base model still read the answer from another model's states?

Source: Lee et al. 2026, https://arxiv.org/abs/2605.24614 (UDS). The states at the positions that predict the answer's
tokens are taken from a donor (the unlearned model, or the retrained reference) and put into the base model, one layer
at a time; what is recorded is the drop of the answer's log-probability. Variant: as the paper, but the last layer is
patched with its own output and not with the state after the final norm (the published script's slip).
Read it as: a small drop means the donor's state at that layer still holds the answer in the base's terms. The score
(`audits.judge`) weighs the drops by those of the reference; 0 is intact, 1 is like the reference.
Does not show: knowledge stored in a form the base model would not read.
"""

import numpy as np
import torch

from workbench.concepts import FactSet
from workbench.errors import BadInput
from workbench.hooks import put
from workbench.model import HookedModel
from workbench.registry import Method
from workbench.scoring import chunks, score, score_batch
from workbench.sites import Site
from workbench.trace import Trace


class States(Method):
    """Residual states at the positions that predict the answers."""

    @torch.no_grad()
    def look(self, model: HookedModel, facts: FactSet) -> Trace:
        """Axes (layer, token, d_model), one token entry for every answer token of every fact."""
        sites = [Site(layer, "resid_post") for layer in range(model.n_layers)]
        parts, owners, first = [], [], 0
        for batch, targets in chunks(model.encode(facts.facts)):
            acts = model.run(batch, read=sites, logits=False).acts
            parts.append(torch.stack([acts[s][targets.row, targets.position] for s in sites]).float().cpu())
            owners += [first + row for row in targets.row.tolist()]
            first += len(batch.ids)
        values = torch.cat(parts, dim=1).numpy()
        labels = {
            "layer": tuple(str(s) for s in sites),
            "token": tuple(f"{i}@{o}" for i, o in enumerate(owners)),
            "d_model": tuple(map(str, range(values.shape[2]))),
        }
        return Trace(
            "states",
            values,
            ("layer", "token", "d_model"),
            "activation",
            labels,
            {"model": model.name, "facts_digest": facts.digest},
        )


class DepthScore(Method):
    """Drop of the answers' log-probability when a donor's states are put into this model."""

    @torch.no_grad()
    def look(self, model: HookedModel, facts: FactSet, donor: Trace) -> Trace:
        """Axes (layer, fact), nats; `donor` is what `States` read from another model on the same facts.

        Raises:
            BadInput: when the donor's states are of other facts, tokens or widths.
        """
        self._require_fit(model, facts, donor)
        intact = score(model, facts.facts).logprob
        states = torch.from_numpy(donor.values)
        drops = np.empty((model.n_layers, len(facts)))
        for layer in range(model.n_layers):
            done, rows = 0, []
            for batch, targets in chunks(model.encode(facts.facts)):
                values = states[layer, done : done + len(targets.token)]
                done += len(targets.token)
                drops_site = {Site(layer, "resid_post"): put(targets.row, targets.position, values)}
                rows.append(score_batch(model, batch, targets, rewrite=drops_site).logprob.cpu())
            drops[layer] = (intact - torch.cat(rows)).numpy()
        labels = {"layer": donor.labels["layer"], "fact": facts.labels}
        return Trace(
            "depth_score",
            drops,
            ("layer", "fact"),
            "nats",
            labels,
            {
                "options": self.spec(),
                "model": model.name,
                "donor": donor.notes["model"],
                "facts": facts.name,
                "subjects": list(facts.subjects),
            },
        )

    def _require_fit(self, model: HookedModel, facts: FactSet, donor: Trace) -> None:
        tokens = sum(len(e.answer) for e in model.encode(facts.facts))
        if donor.notes.get("facts_digest") != facts.digest or donor.values.shape != (
            model.n_layers,
            tokens,
            model.d_model,
        ):
            raise BadInput(
                f"The donor states {donor.values.shape} of {donor.notes.get('model')} do not fit {model.name} "
                f"({model.n_layers} layers, {tokens} answer tokens, width {model.d_model}): both models need "
                "the same architecture, tokenizer and facts"
            )
