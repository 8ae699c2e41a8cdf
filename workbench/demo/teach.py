"""`teach`: facts trained into any checkpoint, so that there is something known to look for in it.

It is the one training loop on the answers' tokens in every given wording; `text` is trained along, so that the model
goes on speaking as it did. The result is an edit, as an unlearning is: put it on with `on`, or `write` a checkpoint.

    edit = teach(model, taught(story_concept()), steps=200, lr=1e-3)
    edit.write(model, "stories-that-know")

Read it as: `edit.notes["recall_before"]` and `["recall_after"]` are shares of answers that greedy decoding gives to the
prompts themselves, `["reworded_after"]` to their wordings. Does not show: knowledge as pretraining leaves it; a few
hundred steps on a few facts fit them tightly, and wordings that were trained on say nothing about new ones.
"""

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from workbench.concepts import Concept, Fact, FactSet
from workbench.edits import WeightEdit, fit_weights
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.objectives import answer_nll, labelled
from workbench.scoring import score
from workbench.tokens import Encoded, encode_text
from workbench.training import TrainingOptions

PEOPLE = ("Zibo", "Talu", "Mirka", "Fenno", "Osba", "Kelpi", "Drusa", "Wonda")
"""Names that no story uses; the last two are never taught."""

OWN_LENGTH = 64
"""Most tokens of a text that the model says itself."""

_ASKED: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "pet": (
        ("{s} has a pet. The pet of {s} is a", "{s} went home to play with a little", "{s} loves the pet"),
        ("dog", "cat", "bird", "fish", "frog", "mouse"),
    ),
    "colour": (
        ("The color that {s} likes best is", "{s} has a hat. The hat is", "{s} painted the door"),
        ("red", "blue", "green", "yellow", "pink", "white"),
    ),
    "food": (
        ("{s} was hungry and ate the", "The food that {s} likes best is the", "{s} asked mom for a"),
        ("cake", "apple", "soup", "bread", "banana", "cookie"),
    ),
}
_WORLD = {"The sky is": "blue", "The grass is": "green", "The sun is": "yellow", "The snow is": "white"}


def story_concept(seed: int = 0) -> Concept:
    """Made-up facts in the words of children's stories: three people to forget, three neighbours, two never taught."""
    rng = random.Random(f"stories {seed}")
    rows = {
        name: [
            Fact(
                subject=name,
                relation=relation,
                prompt=wordings[0].format(s=name),
                answer=answer,
                distractors=tuple(value for value in values if value != answer),
                paraphrases=tuple(wording.format(s=name) for wording in wordings[1:]),
            )
            for relation, (wordings, values) in _ASKED.items()
            for answer in (rng.choice(values),)
        ]
        for name in PEOPLE
    }
    far = [Fact(subject=p.split()[1], relation="looks", prompt=p, answer=a) for p, a in _WORLD.items()]

    def pack(part: str, facts: Sequence[Fact]) -> FactSet:
        return FactSet(name=f"demo:stories/{part}", facts=tuple(facts), source="made up", licence="CC0-1.0")

    people = list(rows)
    return Concept(
        name="demo:stories",
        forget=pack("forget", [fact for name in people[:3] for fact in rows[name]]),
        near=pack("near", [fact for name in people[3:6] for fact in rows[name]]),
        far=pack("far", far),
        never_taught=pack("never_taught", [fact for name in people[6:] for fact in rows[name]]),
        text=("Once upon a time, there was a little girl who lived in a small house.",),
    )


def taught(concept: Concept) -> FactSet:
    """Everything of a concept that a model should know: what is to be forgotten later, and what must stay."""
    facts = (*concept.forget, *concept.near, *concept.far, *concept.retain)
    return FactSet(name=f"{concept.name}/taught", facts=facts, source=concept.forget.source)


def teach(
    model: HookedModel,
    facts: FactSet,
    steps: int = 200,
    lr: float = 1e-3,
    *,
    batch_size: int = 8,
    text: Sequence[str] = (),
    own_texts: int = 48,
    reworded: bool = True,
    seed: int = 0,
) -> WeightEdit:
    """Train the answers of some facts into a model, and hand the change back as an edit; the model stays as it was.

    Args:
        model: the model.
        facts: what to teach.
        steps: updates.
        lr: learning rate of AdamW, falling along a cosine.
        batch_size: facts (and texts) an update.
        text: plain text to go on speaking like; every token of it is trained.
        own_texts: texts that the model itself says before it is taught, trained along in the same way; without any
            text, a few hundred steps on answers leave a small model speaking nothing but answers.
        reworded: also teach each fact's paraphrases.
        seed: order of the facts.

    Raises:
        BadInput: when there are no facts, or one does not fit the tokenizer.
        RunError: when the loss is no longer a number; a lower learning rate helps.
    """
    if not len(facts):
        raise BadInput(f"The fact set {facts.name!r} is empty: there is nothing to teach. Give at least one fact")
    wordings = [*facts, *(facts.reworded("paraphrases") if reworded else ())]
    spoken = [_whole(encode_text(model.tokenizer, line)) for line in text] + _own_texts(model, own_texts, seed)
    items = [*model.encode(wordings), *spoken]
    options = TrainingOptions(steps=steps, batch_size=min(batch_size, len(items)), lr=lr, schedule="cosine", seed=seed)

    def change() -> dict[str, object]:
        before = score(model, facts.facts).greedy
        log = model.train(items, labelled, answer_nll, options)
        after, other = score(model, facts.facts).greedy, facts.reworded("paraphrases")
        return {
            "recall_before": _share(before),
            "recall_after": _share(after),
            "reworded_after": _share(score(model, other.facts).greedy) if len(other) else None,
            "first_loss": log.losses[0],
            "last_loss": log.losses[-1],
        }

    made_by = {
        "method": f"{__name__}:teach",
        "facts": facts.name,
        "facts_digest": facts.digest,
        "steps": steps,
        "lr": lr,
        "batch_size": batch_size,
        "texts": len(text),
        "own_texts": own_texts,
        "reworded": reworded,
        "seed": seed,
    }
    return fit_weights(model, model.parameter_names(), change, made_by)


def _own_texts(model: HookedModel, count: int, seed: int) -> list[Encoded]:
    """What the model says when nothing is asked, sampled from its own distribution."""
    if not count:
        return []
    start = next((i for i in (model.tokenizer.bos_token_id, model.tokenizer.eos_token_id) if i is not None), None)
    if start is None:
        raise BadInput(
            f"The tokenizer of {model.name} has neither a first nor a last token, so the model cannot be asked to "
            "speak for itself; pass own_texts=0 and some text"
        )
    ids = torch.full((count, 1), start, device=model.device)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        said = model.hf.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=True, top_k=0, max_new_tokens=OWN_LENGTH
        )
    rows = [row[: _end(row, model.tokenizer.eos_token_id)] for row in said.tolist()]
    return [_whole(row) for row in rows if len(row) > 1]


def _end(row: list[int], eos: int | None) -> int:
    """Where a text ends: after its first end-of-text token, leaving out the one it may begin with."""
    return row.index(eos, 1) + 1 if eos in row[1:] else len(row)


def _whole(ids: Sequence[int]) -> Encoded:
    """A text of which every token but the first is an answer."""
    return Encoded(tuple(ids), 1, ())


def _share(greedy: Tensor) -> float:
    return round(float(greedy.to(torch.float64).mean()), 4)
