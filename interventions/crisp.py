"""CRISP: the weights are trained so that features of a sparse autoencoder (SAE) that stand for the concept stay silent.

Source: Ashuach et al. 2025, https://arxiv.org/abs/2508.13650. Salient features fire on more tokens of the forget facts
than of the retain facts, and at least three times as strongly (`interventions.suppression_loss`). Low-rank adapters on
all linear maps of some blocks are trained on (1 - beta) * mean activation of these features on the forget facts + beta
* squared change of the SAEs' inputs on the retain facts + beta * gamma * squared change of the last hidden state.
Variants: the last term is on the retain facts, too (the paper has prompts written for it, and plain text is what
fluency is measured on); benign counts are rescaled to the forget facts' number of tokens (`published=true` does not),
AdamW is not its AMSGrad form. At the end the adapters are added to the weights: the result is an ordinary checkpoint.
Where no SAE is given, one is trained here on these very tokens, as in the probe `sae_features`.
Expect: gentle: neighbours kept, answers gone only as far as the features carry them, which the SAE's quality bounds.
Cannot do: reach a mixture's experts, which are no linear maps: there attention (and a shared expert) alone is trained.
"""

import itertools
import random
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from interventions.chosen_features import Chosen, firing
from interventions.gradient.descend import Progress
from interventions.retaining import retain_facts
from interventions.silencing import Silencing, with_firing
from interventions.state_pairs import Pair, bytes_of, collate_for, pairs, stored
from interventions.suppression_loss import Firing, salient
from workbench.concepts import Concept, Fact
from workbench.edits import WeightEdit, fit_weights
from workbench.errors import BadInput
from workbench.fitted_sae import FittedSae, ThroughSae
from workbench.intervention import Intervention
from workbench.low_rank import adapted, linear_maps
from workbench.model import HookedModel
from workbench.sites import Site, layers_of
from workbench.training import TrainingOptions


class Crisp(Intervention):
    """Train low-rank adapters that silence salient SAE features, and add them to the weights."""

    localised: ClassVar[bool] = True

    sae: str | tuple[str, ...] | None = None
    """Folder of an SAE, or name of a SAELens release; several for several sites. Trained here when left out."""
    sae_id: str | tuple[str, ...] | None = None
    """Which SAE of the release; several for several sites."""
    offline: bool = True
    """Read releases from the local cache only; `false` allows a download."""
    anyway: bool = False
    """Use an SAE that says it was made for another site or another checkpoint."""
    kind: Literal["standard", "topk", "batchtopk", "jumprelu"] = "batchtopk"
    """Kind of SAE to train."""
    width: int = Field(4, ge=1)
    """Features of an SAE to train, in multiples of the site's width."""
    k: int = Field(8, ge=1)
    """Active features a token of a `topk` or `batchtopk` SAE to train."""
    sae_steps: int = Field(1000, ge=1)
    """Updates when training an SAE."""
    keep: int = Field(30, ge=1)
    """How many features of each SAE are silenced at most; the paper uses 10, 30 and 50."""
    ratio: float = Field(3.0, gt=0)
    """The paper's tau: how much stronger a salient feature is on the forget facts."""
    chosen: Literal["salient", "random"] = "salient"
    """Which features: the salient ones, or as many others that fire on the forget facts (the control)."""
    published: bool = False
    """Compare raw counts of the two sets, as published, also when they have different numbers of tokens."""
    strength: float = Field(30.0, ge=0)
    """The paper's alpha: how far below its threshold a feature is pushed, in mean pre-activations; 5 to 40. Where an
    SAE's mean is far from 0, less: the push then moves the mean rather than the features."""
    beta: float = Field(0.99, ge=0, le=1)
    """Weight of what is to stay, against what is to go."""
    gamma: float = Field(0.01, ge=0)
    """Weight of the last hidden state within what is to stay; 0 leaves it out, and blocks above the SAEs unrun."""
    layers: tuple[int, ...] | None = None
    """Blocks with adapters; when left out, from two below the lowest SAE to the highest."""
    rank: int = Field(4, ge=1)
    """Rank of each adapter; its alpha is twice that."""
    dropout: float = Field(0.05, ge=0, lt=1)
    """Share of an adapter's inputs that each step leaves out."""
    steps: int = Field(200, ge=1)
    """Number of updates."""
    lr: float = Field(4e-5, gt=0)
    """Learning rate of AdamW (no weight decay); small models need ten to a hundred times more."""
    batch_size: int = Field(4, ge=1)
    """Forget facts per update, and as many retain facts."""
    seed: int = 0
    """Seed of the adapters, of a trained SAE, of the order of facts and of random features."""

    def controls(
        self, model: HookedModel, where: Sequence[Site] | None, seed: int = 0
    ) -> Mapping[str, tuple[Intervention, Sequence[Site] | None]]:
        """As many random features at the same sites; and adapters in all blocks."""
        everywhere = tuple(range(model.n_layers))
        return {
            "random features": (self.model_copy(update={"chosen": "random", "seed": seed}), where),
            "adapters in all layers": (self.model_copy(update={"layers": everywhere}), where),
        }

    def fit(
        self,
        model: HookedModel,
        concept: Concept,
        where: Sequence[Site] | None = None,
        *,
        progress: Progress | None = None,
    ) -> WeightEdit:
        """Train on the concept and return what it changed.

        Args:
            model: unchanged afterwards.
            concept: forget and retain facts.
            where: sites that SAEs read (`L2.resid_post`); None: where the given ones were made, or the middle layer.
            progress: called after every step.

        Raises:
            BadInput: for an SAE or site that does not fit, no salient feature, or nothing to retain.
        """
        kept, note = retain_facts(concept)
        saes = self._saes(model, concept, where, kept)
        before = {sae.site: firing(model, sae, concept.forget.facts) for sae in saes}
        silenced = self._silenced(model, saes, before, kept)
        paths = linear_maps(model, self._blocks([one.sae.site for one in silenced]))
        loss = Silencing(model, silenced, self.strength, self.beta, self.gamma)
        forget, retain = with_firing(model, concept.forget.facts, silenced), stored(model, kept, loss.kept)

        def change() -> dict[str, Any]:
            losses = self._train(model, pairs(forget, retain, self.seed), loss, paths, progress)
            return {
                "features": {str(one.sae.site): _told(model, concept, one, before) for one in silenced},
                "saes": {str(sae.site): sae.notes() for sae in saes},
                "adapters": {"rank": self.rank, "alpha": 2 * self.rank, "on": paths},
                "unreached": _unreached(model, paths),
                "stored_bytes": bytes_of(retain),
                "retain": note,
                "losses": losses,
            }

        return fit_weights(model, [f"{path}.weight" for path in paths], change, self.spec())

    def _train(
        self,
        model: HookedModel,
        items: Sequence[Pair],
        loss: Silencing,
        paths: Sequence[str],
        progress: Progress | None,
    ) -> list[float]:
        """Train adapters, and add them to the weights."""
        options = TrainingOptions(steps=self.steps, lr=self.lr, batch_size=self.batch_size, seed=self.seed)
        adapters = adapted(model, paths, rank=self.rank, alpha=2 * self.rank, dropout=self.dropout, seed=self.seed)
        with adapters as adapter:
            trained = adapter.parameters
            log = model.train(items, collate_for(model), loss, options, trainable=trained, on_step=progress)
            adapter.merge()
        return list(log.losses)

    def _saes(
        self, model: HookedModel, concept: Concept, where: Sequence[Site] | None, kept: Sequence[Fact]
    ) -> list[FittedSae]:
        """The SAE of every site, opened or trained."""
        paths, numbers, sites = _listed(self.sae), _listed(self.sae_id), list(dict.fromkeys(where or ()))
        if inside := [site for site in sites if site.index is not None or site.layer is None]:
            raise BadInput(f"CRISP reads whole sites of a layer, like L2.resid_post; got {inside[0]}")
        if len(numbers) not in (0, len(paths)):
            raise BadInput(f"sae names {len(paths)} SAEs, but sae_id {len(numbers)}: give one for each")
        if paths and sites and len(paths) != len(sites):
            raise BadInput(f"sae names {len(paths)} SAEs for {len(sites)} sites ({', '.join(map(str, sites))})")
        rows = itertools.zip_longest(paths, numbers, sites) if paths or sites else [(None, None, None)]
        facts = [*concept.forget.facts, *kept]
        return [
            self._through(path, number).fitted(model, facts, concept.text, place=site) for path, number, site in rows
        ]

    def _through(self, path: str | None, number: str | None) -> ThroughSae:
        return ThroughSae(
            sae=path,
            sae_id=number,
            offline=self.offline,
            kind=self.kind,
            width=self.width,
            k=self.k,
            steps=self.sae_steps,
            seed=self.seed,
            anyway=self.anyway,
        )

    def _silenced(
        self, model: HookedModel, saes: Sequence[FittedSae], target: Mapping[Site, Firing], kept: Sequence[Fact]
    ) -> list[Chosen]:
        """The features to silence, of the SAEs that have any."""
        picked = [Chosen(sae, self._pick(target[sae.site], firing(model, sae, kept))) for sae in saes]
        if not any(one.features for one in picked):
            raise BadInput(
                f"No feature at {', '.join(str(sae.site) for sae in saes)} fires {self.ratio:g} times as strongly on "
                "the forget facts: lower ratio, train a wider SAE (width), or take another site"
            )
        return [one for one in picked if one.features]

    def _pick(self, target: Firing, benign: Firing) -> tuple[int, ...]:
        found = salient(target, benign, self.keep, self.ratio, rescale=not self.published)
        if self.chosen == "salient":
            return tuple(found)
        pool = [feature for feature in target.count.nonzero()[:, 0].tolist() if feature not in found]
        return tuple(random.Random(self.seed).sample(pool, min(len(found), len(pool))))

    def _blocks(self, read: Sequence[Site]) -> list[int]:
        if self.layers is not None:
            return sorted(set(self.layers))
        layers = layers_of(read)
        return list(range(max(layers[0] - 2, 0), layers[-1] + 1))


def _told(model: HookedModel, concept: Concept, one: Chosen, before: Mapping[Site, Firing]) -> dict[str, Any]:
    """The features, and the sum of their activations on the forget facts before and after."""
    after, chosen = firing(model, one.sae, concept.forget.facts), list(one.features)
    return {
        "numbers": chosen,
        "before": before[one.sae.site].total[chosen].tolist(),
        "after": after.total[chosen].tolist(),
    }


def _unreached(model: HookedModel, paths: Sequence[str]) -> str:
    """What no adapter could be put on."""
    blocks = [mixture.experts for mixture in model.anatomy.mixtures.values()]
    without = [block for block in blocks if not any(path.startswith(block + ".") for path in paths)]
    return f"the experts of {len(without)} mixtures, which are no linear maps" if without else ""


def _listed(given: str | tuple[str, ...] | None) -> list[str]:
    return [given] if isinstance(given, str) else list(given or ())
