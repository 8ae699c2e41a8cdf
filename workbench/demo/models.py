"""`build`: train one demo model once, check that it knows what it should, and keep it as an ordinary checkpoint.

Models lie in `$WORKBENCH_CACHE_DIR`, else in the user's cache folder, under a name that holds the recipe's digest. A
folder appears there complete or not at all. `demo.json` in it says what was trained and what it recalls.

Read it as: role `taught` has read everything, role `reference` everything but one concept. Does not show: what an
unlearning method does; the reference is the model that never learned, made by training anew.
"""

import contextlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, get_args

import torch
from pydantic import BaseModel, ConfigDict
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from workbench.cache import cache_folder
from workbench.demo import lists
from workbench.demo.packing import collate, documents, pack
from workbench.demo.recall import Recall, complaints, recall
from workbench.demo.recipe import RECIPES, Kind, Recipe, Routing, fresh_model, loss_of
from workbench.demo.tokenizer import build_tokenizer
from workbench.demo.utility import all_words
from workbench.demo.world import world
from workbench.errors import BadInput, RunError, did_you_mean
from workbench.training import train

Role = Literal["taught", "reference"]
"""Whether the model has read everything, or everything but the concept."""

Progress = Callable[[int, int, float], None]
"""Called with steps done, steps in all, and seconds left."""


class Order(BaseModel):
    """Which demo model is wanted."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    kind: Kind = "dense"
    """Architecture."""
    role: Role = "taught"
    """What it has read."""
    concept: str = "chemistry"
    """What a reference has not read; of no meaning for a taught model."""
    seed: int = 0
    """Seed of the world and of the training."""
    recipe: Recipe
    """How it is made."""

    @property
    def without(self) -> str | None:
        """The concept left out of the texts."""
        return self.concept if self.role == "reference" else None

    @property
    def folder(self) -> Path:
        """Where it lies once it is built."""
        about = {"kind": self.kind, "role": self.role, "without": self.without, "seed": self.seed}
        parts = [
            self.kind,
            "topic-routed" if self.recipe.routing == "topic" else "",
            self.role,
            f"without-{self.without}" if self.without else "",
            f"seed{self.seed}",
            self.recipe.digest(**about),
        ]
        return cache_root() / "-".join(part for part in parts if part)

    @property
    def built(self) -> bool:
        """Whether it is in the cache."""
        return (self.folder / "demo.json").is_file()


def cache_root() -> Path:
    """Folder of the demo models: `$WORKBENCH_CACHE_DIR`, else the user's cache folder."""
    return cache_folder() / "demo"


def demo_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of all demo models, whatever their seed or role."""
    return build_tokenizer(all_words(), lists.FIRSTS, lists.LASTS)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """At this size a second thread makes everything slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _trained(order: Order, tokenizer: PreTrainedTokenizerFast, progress: Progress | None) -> PreTrainedModel:
    """Train a fresh model as ordered."""
    recipe, texts = order.recipe, world(order.seed).texts(order.without)
    entries = documents(texts, tokenizer, [topic.name for topic in lists.TOPICS])
    rows = pack(entries, recipe.steps * recipe.rows, tokenizer.pad_token_id, order.seed)
    model, began = fresh_model(recipe, tokenizer, order.seed), time.monotonic()

    def tell(step: int, _: float) -> None:
        if progress:
            progress(step, recipe.steps, (time.monotonic() - began) / step * (recipe.steps - step))

    model.set_attn_implementation("sdpa")
    train(model, rows, collate, loss_of(recipe), recipe.training(order.seed), on_step=tell)
    model.set_attn_implementation("eager")
    return model.eval()


def checked(order: Order, measured: Recall) -> Recall:
    """The measurement itself, if the model is fit for use.

    Raises:
        RunError: when it knows too little or too much.
    """
    unread = len(world(order.seed).concept(order.concept).forget)
    wrong = complaints(measured, order.recipe.least_recall, unread)
    if wrong:
        raise RunError(
            f"The demo model ({order.kind}, {order.role}, seed {order.seed}) is not fit for use: "
            f"{'; '.join(wrong)}. Try another seed"
        )
    return measured


@contextlib.contextmanager
def _appearing(folder: Path) -> Iterator[Path]:
    """A scratch folder that becomes `folder` in one rename when the block succeeds, and vanishes when it fails."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".building-{folder.name}-", dir=folder.parent))
    try:
        yield scratch
        scratch.chmod(0o755)
        with contextlib.suppress(FileExistsError, OSError) if folder.exists() else contextlib.nullcontext():
            scratch.rename(folder)  # if another process was faster, its folder is as good as ours
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def fulfil(order: Order, progress: Progress | None = None) -> Path:
    """Build what is ordered, or find it in the cache; return the checkpoint folder.

    Raises:
        BadInput: for a concept that does not exist.
        RunError: when the trained model fails its own check; nothing is kept then.
    """
    if order.built:
        return order.folder
    tokenizer, began = demo_tokenizer(), time.process_time()
    with _one_thread():
        model = _trained(order, tokenizer, progress)
        measured = checked(order, recall(model, tokenizer, world(order.seed), order.without))
    with _appearing(order.folder) as scratch:
        model.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        about = {
            **order.model_dump(mode="json"),
            "concept": order.without,
            "world_seed": order.seed,
            "recall": measured.model_dump(mode="json"),
            "cpu_seconds": round(time.process_time() - began, 1),
        }
        (scratch / "demo.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return order.folder


def build(
    kind: str,
    role: str,
    concept: str = "chemistry",
    seed: int = 0,
    progress: Progress | None = None,
    *,
    routing: str = "free",
) -> Path:
    """Folder of one demo model, trained now (about a minute) or found in the cache.

    Raises:
        BadInput: for a kind, role, routing or concept that does not exist.
        RunError: when the trained model fails its own check.
    """
    return fulfil(order_of(kind, role, concept, seed, routing=routing), progress)


def order_of(kind: str, role: str, concept: str, seed: int, *, routing: str = "free") -> Order:
    """An order from what a user wrote.

    Raises:
        BadInput: naming the value that is not allowed.
    """
    for what, value, allowed in (
        ("kind", kind, get_args(Kind)),
        ("role", role, get_args(Role)),
        ("routing", routing, get_args(Routing)),
    ):
        if value not in allowed:
            raise BadInput(f"{value!r} is no {what} of a demo model. {did_you_mean(value, allowed)}")
    recipe = next((made for key, made in RECIPES.items() if key == (kind, routing)), None)
    if recipe is None:
        raise BadInput(
            f"There is no demo model of kind {kind!r} with routing {routing!r}; there are: "
            + ", ".join(f"{kind} with {routing}" for kind, routing in RECIPES)
        )
    world(seed).forgotten(concept)
    return Order.model_validate({"kind": kind, "role": role, "concept": concept, "seed": seed, "recipe": recipe})
