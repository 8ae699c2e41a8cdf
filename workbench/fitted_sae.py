"""The SAE that a method reads or changes a model through: opened or trained here, and refused where it does not fit.

Read it as: an SAE trained here carries the digest of its checkpoint and its site, so a wrong pair is refused. The name
of a published SAE's model is only reported, because an edited checkpoint has another name than what it was made from.
Does not show: whether an SAE of the right width describes the model; the probe `sae_features` measures that.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from workbench.concepts import Fact
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.registry import Method
from workbench.sae_reading import Dictionary
from workbench.sae_training import train_sae
from workbench.saes import SaeOptions, dictionary_of, load_sae, made_at
from workbench.sites import Site


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
            before: identity of another model whose SAE may be used on this one.
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
        known = ("model_name", "model_digest", "site", "hook_name", "options", "tokens", "neuronpedia_id")
        quality = ("explained_variance", "l0", "dead_features")
        said = self.dictionary.metadata
        return {
            "path": self.path,
            "sae_id": self.sae_id,
            "digest": self.digest,
            "features": len(self.dictionary.decoder),
            "made_for": {name: said[name] for name in known if said.get(name) is not None},
            "in_training": {name: said[name] for name in quality if name in said},
        }


class ThroughSae(Method):
    """Options of a method that reads or changes a model through an SAE."""

    sae: str | None = None
    """Folder of an SAE, or name of a SAELens release; when left out, a donor's SAE is used, or one is trained."""
    sae_id: str | None = None
    """Which SAE of the release."""
    offline: bool = True
    """Read releases from the local cache only; `false` allows a download."""
    site: str | None = None
    """Where it belongs, as in `L2.resid_post`; when left out, where the SAE was made, or the middle layer's output."""
    kind: Literal["standard", "topk", "batchtopk", "jumprelu"] = "batchtopk"
    """Kind of SAE to train. A `topk` SAE always has k features fire, however weakly, which blurs what fires on what."""
    width: int = Field(4, ge=1)
    """Features of an SAE to train, in multiples of the site's width."""
    k: int = Field(8, ge=1)
    """Active features a token of a `topk` or `batchtopk` SAE to train."""
    steps: int = Field(1000, ge=1)
    """Updates when training."""
    seed: int = 0
    """Seed of the training, and of what else is drawn."""
    anyway: bool = False
    """Use an SAE that says it was made for another site or another checkpoint."""

    def fitted(
        self,
        model: HookedModel,
        facts: Sequence[Fact],
        texts: Sequence[str],
        *,
        other: tuple[str, str | None] | None = None,
        before: str | None = None,
        place: Site | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> FittedSae:
        """The SAE that is given, or another one, or one that is trained; and where it belongs.

        Args:
            model: what it is for.
            facts: what to train one on.
            texts: more of that.
            other: path and `sae_id` to use when the options name none.
            before: identity of another model whose SAE may be used.
            place: its site, when the options name none.
            progress: told how far the training is.

        Raises:
            BadInput: for an SAE that cannot be opened, or does not fit the model or the site.
        """
        site = place if self.site is None else Site.parse(self.site)
        path, number = (self.sae, self.sae_id) if self.sae is not None else other or (None, None)
        if path is None:
            site = site or Site(model.n_layers // 2, "resid_post")
            options = SaeOptions(kind=self.kind, width=self.width, k=self.k, steps=self.steps, seed=self.seed)
            path = str(train_sae(model, site, facts=facts, texts=texts, options=options, progress=progress))
        dictionary = dictionary_of(load_sae(path, number, offline=self.offline), model.device)
        site = site or made_at(dictionary.metadata)
        if site is None:
            raise BadInput(f"The SAE {path!r} does not say where it was made; give site=, as in L2.resid_post")
        used = FittedSae(path, number, site, dictionary)
        used.require_fit(model, before, self.anyway)
        return used
