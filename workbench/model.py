"""`HookedModel`: one open checkpoint, read and patched through torch hooks on the Hugging Face object itself.

The Hugging Face model is the only truth: it is what is run, edited and saved. TransformerLens, on a zero-copy
twin, says where each site is (`workbench.model_sites`). Every open model has proved itself (`check`): the twin
agrees, rewriting a site with its own value changes nothing, rewriting it with zeros changes something, the parts
sum to the residual stream, the value vectors sum to the MLP's output. A failed check is an error, never a number.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from workbench.concepts import Fact, FactSet
from workbench.errors import BadInput
from workbench.hooks import READ_ONLY, Rewrite, chain, hooked, keep
from workbench.model_sites import Lens, Tap, lens_of, path_of, taps_of
from workbench.sites import Site
from workbench.tokens import Batch, Encoded, encode
from workbench.value_vectors import ValueVectors

if TYPE_CHECKING:
    import workbench.training


@dataclass(frozen=True)
class Run:
    """What one forward pass gave."""

    logits: Float[Tensor, "row pos vocab"] | None
    """Next-token logits, None when not asked for."""
    acts: dict[Site, Tensor]
    """Value of every site read: (row, pos, width), or (row, pos) for a single neuron."""


class HookedModel:
    """An open model. Use as a context manager: leaving it drops the weights.

    Args:
        hf: the Hugging Face causal language model, loaded with eager attention.
        tokenizer: its tokenizer.
        name: what to call it in results.
        digest: sha256 of the checkpoint; computed from the weights when None.
        folder: where it was loaded from, for files that are copied verbatim on save.

    Raises:
        BadInput: when the architecture fails a check (`check=True`) or is unknown to TransformerLens.
    """

    def __init__(
        self,
        hf: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str = "model",
        digest: str | None = None,
        folder: Path | None = None,
        check: bool = True,
    ) -> None:
        self.hf = hf.eval()
        self.tokenizer = tokenizer
        self.name = name
        self.folder = folder
        self.digest = digest or weights_digest(hf)
        self.lens = _boot(hf, tokenizer)
        self.taps = taps_of(hf, self.lens)
        self._norm, self._unembed = (hf.get_submodule(path_of(self.lens, c)) for c in ("ln_final", "unembed"))
        self._standing: list[tuple[Site, Rewrite]] = []
        self._worn: list[str] = []
        self.prompt_template = "{prompt}"
        if check:
            from workbench.model_check import require_sound  # the checks use the model; they stand above it

            require_sound(self)

    def __enter__(self) -> "HookedModel":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Drop the weights; the object is of no use afterwards."""
        for name in ("hf", "lens", "_norm", "_unembed"):
            self.__dict__.pop(name, None)

    # ---- what it is

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return int(self.hf.config.num_hidden_layers)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return int(self.hf.config.hidden_size)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.hf.device

    @property
    def identity(self) -> str:
        """Digest of the checkpoint and of every edit it wears now; an edit is fitted to one identity."""
        return hashlib.sha256("|".join([self.digest, *self._worn]).encode()).hexdigest() if self._worn else self.digest

    @property
    def mixture_layers(self) -> tuple[int, ...]:
        """Layers whose MLP is a mixture of experts."""
        return tuple(layer for layer in range(self.n_layers) if Site(layer, "router") in self.taps)

    @property
    def experts_per_token(self) -> int:
        """How many experts a token is sent to.

        Raises:
            BadInput: when no layer is a mixture of experts.
        """
        if not self.mixture_layers:
            raise BadInput(
                f"{self.name} ({type(self.hf).__name__}) is a dense model: it has no experts to look at. "
                "Use a mixture-of-experts checkpoint, or a probe that reads layers or neurons"
            )
        return int(self.hf.config.num_experts_per_tok)

    @property
    def stream(self) -> dict[str, Site]:
        """The residual stream in reading order: `embed` is what enters the first block, `L3` what leaves block 3."""
        return {"embed": Site(0, "resid_pre")} | {f"L{i}": Site(i, "resid_post") for i in range(self.n_layers)}

    def tap(self, site: Site) -> Tap:
        """The module boundary a site is.

        Raises:
            BadInput: when this architecture has no such place.
        """
        tap = self.taps.get(site.whole)
        if tap is None:
            parts = sorted({s.part for s in self.taps if s.layer == site.layer})
            has = (
                f"layer {site.layer} has {', '.join(parts)}" if parts else f"there are layers 0 to {self.n_layers - 1}"
            )
            raise BadInput(f"{self.name} ({type(self.hf).__name__}) has no site {site}: {has}")
        return tap

    def value_vectors(self, layer: int) -> ValueVectors:
        """The value vectors of a layer's MLP, or of all its experts."""
        if layer in self.mixture_layers:
            path = f"{self.tap(Site(layer, 'mlp_out')).path}.experts.down_proj"
            return ValueVectors(path, self.hf.get_parameter(path))
        path = self.tap(Site(layer, "mlp_act")).path
        by_row = type(self.hf.get_submodule(path)).__name__ == "Conv1D"
        return ValueVectors(f"{path}.weight", self.hf.get_parameter(f"{path}.weight"), by_row)

    def random_neurons(self, count: int, seed: int = 0) -> list[Site]:
        """Neurons drawn evenly over the whole model: the control every localisation is held against."""
        shapes = [self.value_vectors(layer).vectors.shape[:-1] for layer in range(self.n_layers)]
        neurons = [
            Site(layer, "mlp_act", flat % shape[-1], flat // shape[-1] if len(shape) == 2 else None)
            for layer, shape in enumerate(shapes)
            for flat in range(shape.numel())
        ]
        generator = torch.Generator().manual_seed(seed)
        return [neurons[i] for i in torch.randperm(len(neurons), generator=generator)[:count].tolist()]

    def mlps(self) -> Iterator[tuple[Site, Float[Tensor, "neuron d_model"]]]:
        """Every dense MLP and every expert: the site of all its neurons, and their value vectors, one a row."""
        for layer in range(self.n_layers):
            found = self.value_vectors(layer)
            if found.n_experts is None:
                yield Site(layer, "mlp_act"), found.vectors
            for expert in range(found.n_experts or 0):
                yield Site(layer, "mlp_act", None, expert), found.vectors[expert]

    def vectors_at(self, sites: Sequence[Site]) -> Float[Tensor, "site d_model"]:
        """A copy of the value vectors of some neurons.

        Raises:
            BadInput: when a site is not a single MLP neuron of this model.
        """
        rows = dict(self.mlps())
        found = []
        for site in sites:
            of_mlp = rows.get(Site(site.layer, site.part, None, site.expert))
            if of_mlp is None or site.index is None or site.index >= len(of_mlp):
                some = ", ".join(f"{mlp}[0..{len(vectors) - 1}]" for mlp, vectors in list(rows.items())[:2])
                raise BadInput(f"{site} is not a value vector of {self.name}; its value vectors are {some}, ...")
            found.append(of_mlp[site.index])
        return torch.stack(found).detach() if found else torch.zeros(0, self.d_model, dtype=self.hf.dtype)

    @property
    def unembedding(self) -> Float[Tensor, "vocab d_model"]:
        """Output embedding, one row a token."""
        return self._unembed.weight

    @property
    def final_gain(self) -> Float[Tensor, " d_model"]:
        """Gain of the final norm."""
        return self._norm.weight

    def decode(self, resid: Float[Tensor, "*any d_model"]) -> Float[Tensor, "*any vocab"]:
        """Logits of a residual state through the model's own final norm and unembedding."""
        return self._unembed(self._norm(resid))

    # ---- training and editing (the raw model stays inside `workbench`)

    def parameter(self, name: str) -> nn.Parameter:
        """A parameter of the Hugging Face model by its name."""
        return self.hf.get_parameter(name)

    def parameter_names(self) -> list[str]:
        """Names of all parameters, in the checkpoint's order; tied ones once."""
        return [name for name, _ in self.hf.named_parameters()]

    def block_matrices(self) -> list[str]:
        """Names of the weight matrices (and fused expert tensors) inside the blocks."""
        blocks = tuple(self.tap(Site(layer, "resid_post")).path + "." for layer in range(self.n_layers))
        return [name for name, p in self.hf.named_parameters() if p.ndim >= 2 and name.startswith(blocks)]

    def train(
        self,
        items: Sequence[Any],
        collate: Callable[[list[Any]], dict[str, Tensor]],
        loss: Callable[[PreTrainedModel, dict[str, Tensor]], Float[Tensor, ""]],
        options: "workbench.training.TrainingOptions",
        **more: Any,
    ) -> "workbench.training.TrainingLog":
        """Train in place (`workbench.training.train`); borrow with `workbench.edits.kept` or `fit_weights`."""
        from workbench.training import train  # loads the trainer, which reading does not need

        return train(self.hf, items, collate, loss, options, **more)

    # ---- facts

    def prompted(self, fact: Fact) -> Fact:
        """The fact with its prompt as the model is shown it: unchanged unless a prompt edit is on."""
        if self.prompt_template == "{prompt}":
            return fact
        text = self.prompt_template.replace("{subject}", fact.subject).replace("{prompt}", fact.prompt)
        return fact.model_copy(update={"prompt": text})

    def encode(self, facts: Sequence[Fact]) -> list[Encoded]:
        """Token ids of facts, as the model is shown them."""
        return [encode(self.tokenizer, self.prompted(fact)) for fact in facts]

    def about(self, facts: FactSet) -> dict[str, Any]:
        """What the notes of every reading say of the model and of the facts it was taken on.

        Raises:
            BadInput: when there are no facts.
        """
        if not len(facts):
            raise BadInput(f"The fact set {facts.name!r} is empty: there is nothing to read. Give at least one fact")
        return {
            "model": self.name,
            "identity": self.identity,
            "dtype": str(self.hf.dtype).removeprefix("torch."),
            "facts": facts.name,
            "facts_digest": facts.digest,
            "subjects": list(facts.subjects),
        }

    # ---- running

    def run(
        self,
        batch: Batch,
        read: Sequence[Site] = (),
        rewrite: Mapping[Site, Rewrite] | None = None,
        *,
        logits: bool = True,
        grad: bool = False,
    ) -> Run:
        """One forward pass.

        Args:
            batch: token rows, padded on the right.
            read: sites to return; they show the value after any rewrite.
            rewrite: site -> what becomes of its value. Edits that are on act first.
            logits: whether to unembed; without it only the sites are returned.
            grad: whether to keep the graph, so that gradients at sites or weights can be taken.

        Raises:
            BadInput: for a site this architecture does not have, or one that can only be read.
        """
        acts: dict[Site, Tensor] = {}
        changes: dict[Site, list[Rewrite]] = {}
        for site, change in [*self._standing, *(rewrite or {}).items()]:
            if site.part in READ_ONLY:
                raise BadInput(f"{site} can be read but not rewritten: {READ_ONLY[site.part]}")
            changes.setdefault(site.whole, []).append(change)
        with ExitStack() as hooks, torch.set_grad_enabled(grad):
            for site, functions in changes.items():
                hooks.enter_context(hooked(self.hf, self.tap(site), chain(functions)))
            for site in dict.fromkeys(site.whole for site in read):
                hooks.enter_context(hooked(self.hf, self.tap(site), keep(acts, site)))
            only = {} if logits else {"logits_to_keep": 1}
            out = self.hf(**batch.inputs(self.device), use_cache=False, **only)
        chosen = {site: acts[site.whole] if site.index is None else acts[site.whole][..., site.index] for site in read}
        return Run(out.logits if logits else None, chosen)

    # ---- edits

    @contextlib.contextmanager
    def wearing(
        self, digest: str, standing: Sequence[tuple[Site, Rewrite]] = (), template: str | None = None
    ) -> Iterator[None]:
        """Record that an edit is on, with the rewrites and the prompt template it brings. Used by `workbench.edits`."""
        before = (list(self._standing), list(self._worn), self.prompt_template)
        self._standing, self._worn = [*self._standing, *standing], [*self._worn, digest]
        self.prompt_template = template or self.prompt_template
        try:
            yield
        finally:
            self._standing, self._worn, self.prompt_template = before


def weights_digest(hf: PreTrainedModel) -> str:
    """sha256 over all parameters by name, for a model that was not loaded from a folder."""
    total = hashlib.sha256()
    for name, tensor in sorted(hf.state_dict().items()):
        total.update(name.encode())
        total.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def _boot(hf: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Lens:
    try:
        return lens_of(hf, tokenizer)
    except ValueError as error:
        raise BadInput(
            f"TransformerLens does not know the architecture {type(hf).__name__}: {str(error)[:120]}. "
            "The workbench opens architectures TransformerLens has an adapter for"
        ) from None
