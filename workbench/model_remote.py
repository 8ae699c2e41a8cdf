"""`RemoteModel`: a model whose weights are on a deployment (like NDIF), read through nnsight as an open model is.

Here are only the config, the tokenizer and the table of sites; every `run` is one nnsight trace that the deployment
executes. Probes see the reading half of `HookedModel`. Rewrites must be data (`put`, `torch.zeros_like`); gradients,
training, edits and self-checks are refused. Weights that a reading needs are fetched once and lazily: final norm and
unembedding for `decode` (for a vocabulary of 128256, width 4096 and bfloat16 1.05 GB; `fetched` counts them), the
down-projection of a layer for its value vectors (4096 x 14336 in bfloat16: 117 MB a layer).

Read it as: what the deployment's weights, kernels and precision say; whether they are those of the checkpoint named,
nobody here can prove. Does not show: the self-check of an opening, except that the last state decodes to the logits.
Never tried: a deployment of NDIF. The tests run the rehearsal, and a stand-in server in a process of its own.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NoReturn

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from workbench.checkpoint_load import require_room
from workbench.concepts import FactSet
from workbench.errors import BadInput, RunError
from workbench.hooks import Rewrite
from workbench.model import HookedModel
from workbench.model_decoder import Decoder
from workbench.model_experts import Routing
from workbench.model_remote_place import RemoteCheckpoint
from workbench.model_remote_skeleton import hollow, order_of, skeleton_of
from workbench.model_remote_steps import itinerary
from workbench.model_run import Prefix, Run, Start
from workbench.sites import Site
from workbench.tokens import Batch, pad
from workbench.value_vectors import ValueVectors


class RemoteModel(HookedModel):
    """The reading half of `HookedModel`, over the wire.

    Args:
        config: the model's config.
        tokenizer: its tokenizer.
        wire: what carries passes (`workbench.model_remote_wire.Wire`).
        source: where it is.

    Raises:
        BadInput: when TransformerLens does not know the architecture, or its tokenizer does not fit.
    """

    whole_passes = True

    def __init__(
        self, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, wire: Any, source: RemoteCheckpoint
    ) -> None:
        hf = hollow(config, source.opening.trust_remote_code)
        require_room(tokenizer, hf, source.place.address)
        super().__init__(hf, tokenizer, name=source.name, digest=source.digest, check=False)
        if self.read_only:
            raise BadInput(f"{self.name} ({type(hf).__name__}) cannot be read remotely: {self.read_only}")
        self.lens = None
        self.hf = skeleton_of(config, source.opening.trust_remote_code)
        self.order = order_of(self.hf, self.anatomy.mixtures)
        self.wire = wire
        self.host = source.deployment.host
        self.fetched = 0
        """Bytes of weights that came over the wire."""

    @property
    def device(self) -> torch.device:
        """Where what is sent and what comes back is."""
        return torch.device("cpu")

    def about(self, facts: FactSet) -> dict[str, Any]:
        """As `HookedModel.about`, and that it was remote; the dtype is what the config says."""
        return super().about(facts) | {"remote": self.host}

    # ---- running

    def run(
        self,
        batch: Batch,
        read: Sequence[Site] = (),
        rewrite: Mapping[Site, Rewrite] | None = None,
        *,
        logits: bool | int | Int[Tensor, " kept"] = True,
        grad: bool = False,
        start: Start | None = None,
        prefix: Prefix | None = None,
        remember: bool = False,
        stop: int | None = None,  # noqa: ARG002  (would only save work there)
    ) -> Run:
        """One forward pass on the deployment; arguments and shapes as `HookedModel.run`.

        Raises:
            BadInput: for what cannot be sent: gradients, passes that start late, rewrites that are functions; and when
                the deployment cannot be reached or refuses.
            RunError: when the pass fails there.
        """
        if grad:
            self._refuse("gradients are not sent")
        if start is not None or prefix is not None or remember:
            self._refuse("every pass is a whole one; give shortcuts=False to patch_each")
        plan = itinerary(self, self.order, read, rewrite or {})
        rows, positions = batch.ids.shape
        kept = {} if logits is True else {"logits_to_keep": 1 if logits is False else logits}
        inputs = batch.inputs(self.device) | {"use_cache": False} | kept
        values, out = self.wire.run(inputs, plan, (rows, positions), logits is not False)
        acts = dict(zip(plan.slots, values, strict=True))
        return Run(out, {site: self._part(site, acts[site.whole]) for site in read})

    def _part(self, site: Site, value: Tensor) -> Tensor:
        span = self.span(site)
        if span is None:
            return value
        return value[..., span[0]] if span[1] - span[0] == 1 else value[..., span[0] : span[1]]

    @torch.no_grad()
    def routing(self, batch: Batch, layers: Sequence[int] | None = None) -> dict[int, Routing]:
        """Router logits, chosen experts and their weights for every token, by layer.

        Raises:
            BadInput: for a layer that is no mixture of experts.
        """
        wanted = self.mixture_layers if layers is None else layers
        mixtures = self.anatomy.mixtures
        unseen = [layer for layer in wanted if layer not in mixtures or not mixtures[layer].fused]
        if unseen:
            raise BadInput(f"Layer {unseen[0]} of {self.name} is no mixture of experts whose routing can be read")
        plan = itinerary(self, self.order, [Site(layer, "router") for layer in wanted], {}, wanted)
        rows, positions = batch.ids.shape
        inputs = batch.inputs(self.device) | {"use_cache": False, "logits_to_keep": 1}
        values = iter(self.wire.run(inputs, plan, (rows, positions), False)[0])
        found: dict[Any, Any] = {}
        for slot in plan.slots:
            found[slot] = next(values) if isinstance(slot, Site) else (next(values), next(values))
        shape = (rows, positions, -1)
        return {
            layer: Routing(found[Site(layer, "router")], *(t.view(shape) for t in found["routing", layer]))
            for layer in wanted
        }

    # ---- weights

    def _bring(self, names: Sequence[str]) -> None:
        """Fetch parameters that are not here yet."""
        away = [name for name in names if self.hf.get_parameter(name).is_meta]
        if not away:
            return
        inputs = pad([[0]]).inputs(self.device) | {"use_cache": False}
        pairs = [(name.rpartition(".")[0], name.rpartition(".")[2]) for name in away]
        for name, tensor in zip(away, self.wire.weights(inputs, pairs), strict=True):
            blank, given = self.hf.get_parameter(name), nn.Parameter(tensor.cpu(), requires_grad=False)
            if given.shape != blank.shape:
                shapes = tuple(given.shape), tuple(blank.shape)
                raise RunError(f"{self.host} stores {name} as {shapes[0]}, its config says {shapes[1]}")
            for module in self.hf.modules():  # it may be tied to another
                module._parameters.update({leaf: given for leaf, p in module._parameters.items() if p is blank})
            self.fetched += given.nbytes

    @cached_property
    def decoder(self) -> Decoder:
        """The way from a residual state to logits; its weights are fetched, and tried on the last state of a pass.

        Raises:
            BadInput: when it was not found.
            RunError: when it does not give the logits that the deployment gives.
        """
        if self.anatomy.norm is not None:
            here = [(path, self.hf.get_submodule(path)) for path in (self.anatomy.norm, self.anatomy.unembed)]
            self._bring([f"{path}.{name}" for path, module in here for name, _ in module.named_parameters()])
        decoder = super().decoder
        last = Site(self.n_layers - 1, "resid_post")
        ran = self.run(pad([[0, 1, 2]]), read=[last])
        assert ran.logits is not None
        off = float((decoder(ran.acts[last]) - ran.logits).abs().max() / ran.logits.abs().max().clamp(min=1e-9))
        if not off <= (1e-4 if ran.logits.dtype in (torch.float32, torch.float64) else 0.15):
            raise RunError(f"What {self.host} sent does not decode: its last state gives other logits (by {off:.2g})")
        return decoder

    @property
    def unembedding(self) -> Float[Tensor, "vocab d_model"]:
        """Output embedding, one row a token; fetched."""
        self.decoder  # noqa: B018  (fetches it)
        return super().unembedding

    def value_vectors(self, layer: int, shared: bool = False) -> ValueVectors:
        """As `HookedModel.value_vectors`, with the layer's down-projection fetched; a copy, not the model's own."""
        found = super().value_vectors(layer, shared)
        self._bring([found.name])
        return super().value_vectors(layer, shared)

    def mlps(self) -> Iterator[tuple[Site, Float[Tensor, "neuron d_model"]]]:
        """As `HookedModel.mlps`; each layer is fetched when it is reached."""
        for site, found in self.down_projections():
            yield site, self._rows(site, found)

    def width(self, site: Site) -> int:
        """Size of the last axis of a site; fetches nothing."""
        if site.part == "mlp_act":
            self.tap(site.whole)
            return next(found.vectors.shape[-2] for mlp, found in self.down_projections() if mlp == site.whole)
        return super().width(site)

    def stored_at(self, sites: Sequence[Site]) -> list[tuple[str, Float[Tensor, " d_model"]]]:
        """As `HookedModel.stored_at`, fetched; copies, so nothing written to them reaches the deployment."""
        stores = dict(self.down_projections())
        self._bring(sorted({stores[site.whole].name for site in sites if site.whole in stores}))
        return super().stored_at(sites)

    def random_neurons(self, count: int, seed: int = 0) -> list[Site]:
        """As `HookedModel.random_neurons`; fetches nothing."""
        every = [
            Site(mlp.layer, "mlp_act", i, mlp.expert)
            for mlp, found in self.down_projections()
            for i in range(found.vectors.shape[-2])
        ]
        order = torch.randperm(len(every), generator=torch.Generator().manual_seed(seed))
        return [every[i] for i in order[:count].tolist()]

    def _rows(self, site: Site, found: ValueVectors) -> Float[Tensor, "neuron d_model"]:
        self._bring([found.name])
        there = found.as_rows(self.hf.get_parameter(found.name))
        return there if site.expert is None else there[site.expert]

    # ---- what is refused

    def _refuse(self, why: str) -> NoReturn:
        raise BadInput(f"{self.name} is on {self.host}: a remote model can be read, not edited or trained; {why}")

    def check(self, full: bool = False) -> NoReturn:  # noqa: ARG002
        """Refused: the checks need the weights."""
        self._refuse("its self-check needs the weights here")

    def parameter(self, name: str) -> NoReturn:
        """Refused: what is written to a copy here changes nothing there."""
        self._refuse(f"{name} is not here")

    def train(self, *_: Any, **__: Any) -> NoReturn:
        """Refused."""
        self._refuse("open the checkpoint here to train it")

    def prefix(self, ids: Sequence[int]) -> NoReturn:  # noqa: ARG002
        """Refused: keys and values are not sent."""
        self._refuse("every pass is a whole one")

    @contextlib.contextmanager
    def wearing(self, *_: Any, **__: Any) -> Iterator[NoReturn]:
        """Refused: edits are put on models that are here."""
        self._refuse("open the checkpoint here to edit it")
        yield  # a context manager has one
