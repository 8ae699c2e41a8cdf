"""The SAE that a probe reads through: does it fit this model and this site, and is it the one the donor was read with?

Read it as: an SAE trained here carries the digest of its checkpoint and its site, so a wrong pair is refused. The name
of a published SAE's model is only reported, because an edited checkpoint has another name than what it was made from.
Does not show: whether an SAE of the right width describes the model; the probe measures that.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.sae_reading import Dictionary
from workbench.saes import made_at
from workbench.sites import Site
from workbench.trace import Trace


@dataclass(frozen=True)
class FittedSae:
    """An SAE, where it is read, and what it says of itself."""

    path: str
    """Folder, or name of a release."""
    sae_id: str | None
    """Which of the release."""
    site: Site
    """Where it reads."""
    dictionary: Dictionary
    """Its features."""

    def require_fit(self, model: HookedModel, before: str | None, anyway: bool) -> None:
        """Refuse an SAE that cannot read this site, or says that it was made for something else.

        Args:
            model: what is looked into.
            before: identity of the donor, whose SAE may be used on both.
            anyway: do not listen to what the SAE says of itself.

        Raises:
            BadInput: saying what it was made for.
        """
        said, width = self.dictionary.metadata, model.width(self.site)
        if self.site.index is not None or self.dictionary.decoder.shape[1] != width:
            raise BadInput(
                f"The SAE {self.path!r} reads {self.dictionary.decoder.shape[1]} numbers a token, but {self.site} of "
                f"{model.name} has {1 if self.site.index is not None else width}: give the site and the model it was "
                f"made for ({said.get('model_name')}, {said.get('site') or said.get('hook_name')})"
            )
        made, digest = made_at(said), said.get("model_digest")
        wrong = [] if made in (None, self.site) else [f"at {made}, not at {self.site}"]
        if digest not in (None, model.identity, before):
            wrong.append(f"for another checkpoint ({said.get('model_name')}, {digest[:12]}), not for {model.name}")
        if wrong and not anyway:
            raise BadInput(
                f"The SAE {self.path!r} was made {' and '.join(wrong)}. Train one here (leave out sae), compare with "
                "the model it was made for (it is then read first, as the donor), or set anyway=true"
            )

    @property
    def digest(self) -> str:
        """sha256 of its weights."""
        total = hashlib.sha256()
        for _, tensor in sorted(self.dictionary.whole.tensors.items()):
            total.update(tensor.cpu().contiguous().numpy().tobytes())
        return total.hexdigest()

    def notes(self) -> dict[str, Any]:
        """What a reader needs to find it again, and what it says of itself."""
        known = ("model_name", "model_digest", "site", "hook_name", "options", "tokens")
        quality = ("explained_variance", "l0", "dead_features")
        said = self.dictionary.metadata
        return {
            "path": self.path,
            "sae_id": self.sae_id,
            "digest": self.digest,
            "features": len(self.dictionary.decoder),
            "made_for": {name: said[name] for name in known if name in said},
            "in_training": {name: said[name] for name in quality if name in said},
        }


def require_same_reading(donor: Trace, used: FittedSae, about: Mapping[str, Any]) -> None:
    """Refuse a donor that was read on other facts, through another SAE or elsewhere.

    Raises:
        BadInput: saying in what they differ.
    """
    same = {
        "facts": donor.notes.get("facts_digest") == about["facts_digest"],
        "SAE": donor.notes["sae"]["digest"] == used.digest,
        "site": donor.notes["site"] == str(used.site),
    }
    wrong = [name for name, is_same in same.items() if not is_same]
    if wrong:
        raise BadInput(
            f"The donor ({donor.notes.get('model')}) was read with another {' and '.join(wrong)} than "
            f"{about['model']}; take both readings with the same options on the same facts"
        )
