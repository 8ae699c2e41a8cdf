"""`HookedModel`: one open checkpoint, read and patched through torch hooks on the Hugging Face object itself.

The Hugging Face model is the only truth: it is what is run, edited and saved. TransformerLens, on a zero-copy
twin, says where each site is (`workbench.model_sites`). Every open model has proved itself (`check`): the twin
agrees, rewriting a site with its own value changes nothing, the parts sum to the residual stream, the value vectors
sum to the MLP's output. A failed check is an error, never a number. An architecture that the workbench was not tried on
opens with what passes (`withheld` says what did not); one that TransformerLens does not know can only be read.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from workbench.concepts import Fact, FactSet
from workbench.errors import BadInput
from workbench.guards import Worn
from workbench.hooks import Rewrite
from workbench.model_decoder import Decoder, gain_of
from workbench.model_experts import Routing, routing_of
from workbench.model_outline import outline
from workbench.model_places import Places
from workbench.model_run import Prefix, Run, Start, run
from workbench.model_sites import Anatomy, Lens, anatomy_of, lens_of
from workbench.sites import Site
from workbench.tokens import Batch, Encoded, encode, pad

if TYPE_CHECKING:
    import workbench.training
    from workbench.model_check import Check


class HookedModel(Places):
    """An open model. Use as a context manager: leaving it drops the weights.

    Args:
        hf: the Hugging Face causal language model, loaded with eager attention.
        tokenizer: its tokenizer.
        name: what to call it in results.
        digest: sha256 of the checkpoint; computed from the weights when None.
        folder: where it was loaded from, for files that are copied verbatim on save.

    Raises:
        BadInput: when the architecture fails a check (`check=True`).
    """

    whole_passes = False
    """Whether a pass can leave out nothing (`Start`, `Prefix`): so on a deployment (`workbench.model_remote`)."""

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
        self.lens, self.anatomy, self.read_only = _understand(hf, tokenizer)
        self.taps = dict(self.anatomy.taps)
        self.withheld: dict[str, str] = {}
        self.guards: list[Worn] = []
        self.stays = contextlib.ExitStack()
        self._keeping: Keeping | None = None
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
        self.stays.close()
        for name in ("hf", "lens", "decoder"):
            self.__dict__.pop(name, None)

    def check(self, full: bool = False) -> "list[Check]":
        """Try the identities that make readings trustworthy, without any guard; see `workbench.model_check`.

        Args:
            full: everything that `workbench doctor` shows; else the few forward passes of every opening.
        """
        from workbench.model_check import check  # the checks use the model; they stand above it

        with self.bare():
            return check(self, full)

    # ---- what it is

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
        return tuple(self.anatomy.mixtures)

    @cached_property
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
        layer = self.mixture_layers[0]
        return int(self.routing(pad([[0]]), [layer])[layer].chosen.shape[-1])  # every config calls it something else

    @property
    def stream(self) -> dict[str, Site]:
        """The residual stream in reading order: `embed` is what enters the first block, `L3` what leaves block 3."""
        return {"embed": Site(0, "resid_pre")} | {f"L{i}": Site(i, "resid_post") for i in range(self.n_layers)}

    @property
    def unembedding(self) -> Float[Tensor, "vocab d_model"]:
        """Output embedding, one row a token."""
        return self.hf.get_submodule(self.anatomy.unembed).weight

    @property
    def final_gain(self) -> Float[Tensor, " d_model"]:
        """What the final norm multiplies each direction by, whatever way it is stored (Gemma's is 1 + weight)."""
        return gain_of(self.decoder.norm, self.d_model, self.hf.dtype)

    @cached_property
    def decoder(self) -> Decoder:
        """The model's own way from a residual state to logits.

        Raises:
            BadInput: when it was not found.
        """
        if self.anatomy.norm is None or "decode" in self.withheld:
            why = self.withheld.get("decode", "no final norm was found")
            raise BadInput(f"{self.name} ({type(self.hf).__name__}) cannot decode inner states: {why}")
        return Decoder(
            self.hf.get_submodule(self.anatomy.norm), self.hf.get_submodule(self.anatomy.unembed), self.hf.config
        )

    def decode(self, resid: Float[Tensor, "*any d_model"]) -> Float[Tensor, "*any vocab"]:
        """Logits of a residual state through the model's own final norm and unembedding."""
        return self.decoder(resid)

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

        if "keep" not in more and (keep := self.next_kept()) is not None and self._keeping:
            more |= {"keep": keep, "question": self._keeping.question}
        return train(self.hf, items, collate, loss, options, **more)

    def require_able(self, options: "workbench.training.TrainingOptions") -> None:
        """Refuse what `train` would refuse for the hardware or the packages (`workbench.training.require_able`)."""
        from workbench.training import require_able

        require_able(self.hf, options)

    def next_kept(self) -> Path | None:
        """The folder that the next training is kept in; None when none is to be."""
        if self._keeping is None:
            return None
        self._keeping.used += 1
        return self._keeping.folder / str(self._keeping.used)

    @contextlib.contextmanager
    def keeping(self, folder: Path, question: Mapping[str, Any]) -> Iterator[None]:
        """Let every training inside the block go on where it was stopped, when the same block is run again.

        Args:
            folder: where each training is kept, one after the other; remove it when all is done.
            question: what the trainings depend on beside their items and options, in JSON form.
        """
        before, self._keeping = self._keeping, Keeping(folder, question)
        try:
            yield
        finally:
            self._keeping = before

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
        logits: bool | int | Int[Tensor, " kept"] = True,
        grad: bool = False,
        start: Start | None = None,
        prefix: Prefix | None = None,
        remember: bool = False,
        stop: int | None = None,
    ) -> Run:
        """One forward pass.

        Args:
            batch: token rows, padded on the right; after a `prefix`, what follows it.
            read: sites to return; they show the value after any rewrite.
            rewrite: site -> what becomes of its value, in the shape it is read in. Edits that are on act first.
            logits: whether to unembed; a number unembeds that many last positions, a tensor those positions.
            grad: whether to keep the graph, so that gradients at sites or weights can be taken.
            start: a block to begin at and what enters it; the blocks below are left out.
            prefix: tokens that all rows begin with and that are not computed again.
            remember: whether to return the keys and values of the tokens (`Run.memory`).
            stop: a block to end before: it and those above hand on what they get, so sites below cost less to read.

        Raises:
            BadInput: for a site this architecture does not have, or one that can only be read.
        """
        return run(
            self,
            batch,
            read,
            rewrite or {},
            logits=logits,
            grad=grad,
            start=start,
            prefix=prefix,
            remember=remember,
            stop=stop,
        )

    @torch.no_grad()
    def prefix(self, ids: Sequence[int]) -> Prefix:
        """Run tokens once, so that later passes need only run what follows them."""
        return Prefix(torch.tensor(ids), self.run(pad([ids]), logits=False, remember=True).memory)

    @torch.no_grad()
    def routing(self, batch: Batch, layers: Sequence[int] | None = None) -> dict[int, Routing]:
        """Router logits, chosen experts and their weights for every token, by layer.

        Raises:
            BadInput: for a layer that is no mixture of experts.
        """
        return routing_of(self, batch, self.mixture_layers if layers is None else layers)

    # ---- edits

    @contextlib.contextmanager
    def bare(self) -> Iterator[None]:
        """The model without the guards it wears, as somebody has it who has the weights."""
        before = (self.guards, self._worn)
        dropped = {guard.digest for guard in self.guards}
        self.guards, self._worn = [], [digest for digest in self._worn if digest not in dropped]
        try:
            yield
        finally:
            self.guards, self._worn = before

    @contextlib.contextmanager
    def wearing(self, digest: str, guard: Worn | None = None, template: str | None = None) -> Iterator[None]:
        """Record that an edit is on, with the guard or the prompt template it brings. Used by `workbench.edits`."""
        before = (list(self.guards), list(self._worn), self.prompt_template)
        self.guards, self._worn = [*self.guards, *([guard] if guard else ())], [*self._worn, digest]
        self.prompt_template = template or self.prompt_template
        try:
            yield
        finally:
            self.guards, self._worn, self.prompt_template = before


@dataclass
class Keeping:
    """Folders for the trainings of one block, numbered in the order they come."""

    folder: Path
    question: Mapping[str, Any]
    used: int = 0


def weights_digest(hf: PreTrainedModel) -> str:
    """sha256 over all parameters by name, for a model that was not loaded from a folder."""
    total = hashlib.sha256()
    for name, tensor in sorted(hf.state_dict().items()):
        total.update(name.encode())
        total.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def _understand(hf: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[Lens | None, Anatomy, str]:
    """TransformerLens's view of the model, where everything is, and why it can only be read (empty when it can not)."""
    try:
        lens = lens_of(hf, tokenizer)
        return lens, anatomy_of(hf, lens), ""
    except ValueError:
        reason = "TransformerLens does not know this architecture, so only the residual stream was found"
        return None, outline(hf), reason
