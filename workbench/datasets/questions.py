"""From somebody's question and answer to a prompt that ends right before the answer, with a subject that stands in it.

Few sources say which words of a question name its subject, which tracing needs. It is taken, in this order, from
names the source gives (longest first), from the longest run of capitalised words or quotation, and else it is the
longest word. That is a guess: right for all but two of the 3,781 TOFU questions that name their author, and a mere
word where a question names nobody. Intervals are clustered by `Fact.group` where a source has groups.
"""

import re
from collections.abc import Iterable, Sequence

from workbench.concepts import LETTERS
from workbench.datasets.spec import Draw

WORD = r"[^\W\d_a-z][\w'’.-]*"
"""A word that begins with a capital, in any script that has them."""

RUN = re.compile(
    rf"{WORD}(?:\s+(?:(?:de|del|der|den|da|di|dos|du|la|le|van|von|bin|ibn|al|el|of|the|and|for)\s+){{0,2}}{WORD})*"
)
"""A run of capitalised words, with the small words that stand inside names."""

QUOTED = re.compile(r"[\"“«‘']([^\"“”«»‘’']{2,50})[\"”»’']")
"""What stands in quotation marks."""

OPENERS = (
    " A An And Are As At Author But By Can Complete Could Despite Did Do Does During Find For From Given Had Has"
    " Have He Her Hers His How However I If In Is It Its Let Many Name No Of On Once One Or Question Select She So"
    " Statement Suppose The Their Then There These They This To Was We Were What When Where Which While Who Whom"
    " Whose Why Will With Would Yes You Your"
    " "
)
"""Words that are capitalised only because a sentence begins with them."""


def asked(question: str, draw: Draw) -> str:
    """A question as a prompt."""
    return f"Question: {question.strip()}\nAnswer:" if draw.frame == "qa" else question.strip()


def chosen(question: str, choices: Sequence[str], right: int, draw: Draw) -> dict[str, object]:
    """Prompt, answer, distractors and choices of a multiple-choice question.

    Args:
        question: without its choices.
        choices: in the source's order.
        right: index of the right one.
        draw: whether letters or texts answer it.
    """
    texts = tuple(choice.strip() for choice in choices)
    named = LETTERS[: len(texts)] if draw.answer == "letter" else texts
    listed = "".join(f"\n{letter}. {text}" for letter, text in zip(LETTERS, texts, strict=False))
    others = dict.fromkeys(name for i, name in enumerate(named) if i != right and name != named[right])
    return {
        "prompt": asked(question.strip() + (listed if draw.answer == "letter" else ""), draw),
        "answer": named[right],
        "distractors": tuple(others),
        "choices": texts,
    }


def names_in(text: str) -> set[str]:
    """Runs of at least two capitalised words, without what only opens a sentence or stands in the possessive."""
    return {name for name in _runs(text) if " " in name}


def subject_of(prompt: str, known: Iterable[str] = ()) -> str:
    """The words of a prompt that name what it is about.

    Args:
        prompt: with the frame around it, or without.
        known: names that the source gives; the longest that stands in the prompt is taken.
    """
    given = [name for name in known if name.strip() and name in prompt]
    if given:
        return max(given, key=len)
    bare = prompt.removeprefix("Question: ").removesuffix("\nAnswer:")
    named = [name for name in [*_runs(bare), *QUOTED.findall(bare)] if name.strip() and name in prompt]
    if named:
        return max(named, key=len)
    words = re.findall(r"\w+", bare) or [bare]
    return max(words, key=len)


def _runs(text: str) -> list[str]:
    """Every run of capitalised words; one in the possessive ends there."""
    pieces = [piece for run in RUN.findall(text) for piece in re.split(r"['’]s?(?=\s|$)|(?<=\w\w\w)\.(?=\s|$)", run)]
    return [found for piece in pieces if (found := " ".join(_trimmed(piece)))]


def _trimmed(run: str) -> list[str]:
    """Without the small words at either end, and without what only opens a sentence."""
    words = run.strip(".,'’- ").split()
    while words and (f" {words[0]} " in OPENERS or not words[0][0].isupper()):
        words.pop(0)
    while words and not words[-1][0].isupper() and not words[-1][0].isdigit():
        words.pop()
    return words
