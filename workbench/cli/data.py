"""`workbench data`: what a concept holds, set by set, where it comes from, and what cannot be measured with it."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.cli.console import Screen, table
from workbench.cli.options import AsJson, Quiet

if TYPE_CHECKING:
    from workbench.concepts import Concept, Fact

SHOWN = 3
"""Examples of each set."""

WIDEST = 160
"""Characters of an example that are shown."""

COLUMNS = ("set", "facts", "clusters", "paraphrased", "with distractors", "digest", "what")
"""Of the table of sets."""


def data(
    spec: Annotated[
        str | None,
        typer.Argument(
            metavar="[SPEC]",
            help="A concept: tofu:forget10, tofu:forget10@FOLDER, 'tofu:forget10?limit=100&seed=1', "
            "or a file. Without one, every source is listed.",
        ),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--data", metavar="DIR", help="Folder of local data sets, one folder a source; or WORKBENCH_DATA."
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", min=1, help="Most facts of each set but forget (400).")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", min=0, help="Which facts are drawn (0).")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Use only folders and the hub's local cache.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Show what a concept holds and what it lacks; no model is needed."""
    screen = Screen(as_json, quiet)
    if spec is None:
        _sources(screen)
        return
    from workbench.datasets import load_concept

    if offline:  # the hub's libraries read it once, when they are imported
        os.environ["HF_HUB_OFFLINE"] = "1"
    concept = load_concept(spec, data=folder, offline=offline, limit=limit, seed=seed)
    payload = _payload(concept)
    screen.result({"verb": "data", **payload}, _shown(payload))


def _sources(screen: Screen) -> None:
    """One row a source."""
    from workbench.datasets import EXAMPLES, FILE_SUFFIXES

    rows = [*EXAMPLES.items(), (f"FILE{{{','.join(FILE_SUFFIXES)}}}", "your own facts: `workbench schema concept`")]
    sources = [{"name": name, "about": about} for name, about in rows]
    screen.result({"verb": "data", "sources": sources}, [table(("for instance", "what"), rows)])


def _payload(concept: "Concept") -> dict[str, Any]:
    """Everything that is said, in JSON form."""
    from workbench.concepts import FACT_SETS, TEXT_LISTS

    sets = {name: found for name in FACT_SETS if len(found := getattr(concept, name))}
    texts = {name: found for name in TEXT_LISTS if (found := getattr(concept, name))}
    asked = {f"questions: {about}": found for about, found in concept.questions.items() if found}
    empty = [name for name in (*FACT_SETS, *TEXT_LISTS) if name not in sets and name not in texts]
    return {
        "name": concept.name,
        "digest": concept.digest,
        "licence": concept.forget.licence or "no licence stated",
        "source": concept.forget.source,
        "sets": [
            {
                "set": name,
                "facts": len(found),
                "clusters": len(set(found.subjects)),
                "paraphrased": sum(bool(fact.paraphrases) for fact in found),
                "with_distractors": sum(bool(fact.distractors) for fact in found),
                "digest": found.digest,
                "what": concept.notes.get(name, ""),
                "kinds": _kinds(found.facts),
                "examples": [_example(fact) for fact in found.facts[:SHOWN]],
            }
            for name, found in sets.items()
        ],
        "texts": [
            {
                "list": name,
                "texts": len(found),
                "characters": sum(map(len, found)),
                "what": concept.notes.get(name, ""),
                "examples": [_cut(text) for text in found[:SHOWN]],
            }
            for name, found in {**texts, **asked}.items()
        ],
        "known_sites": list(concept.known_sites),
        "not_measured": {name: concept.notes.get(name, "not given") for name in empty},
    }


def _kinds(facts: "tuple[Fact, ...]") -> dict[str, int]:
    """Kind -> how many facts are of it; nothing for a set without kinds."""
    from collections import Counter

    return dict(Counter(fact.kind for fact in facts if fact.kind))


def _example(fact: "Fact") -> dict[str, str]:
    return {"subject": fact.subject, "prompt": _cut(fact.prompt, end=True), "answer": _cut(fact.answer)}


def _cut(text: str, end: bool = False) -> str:
    """The beginning of a long text, or its end, which is what matters of a prompt."""
    if len(text) <= WIDEST:
        return text
    return f"…{text[-WIDEST:]}" if end else f"{text[:WIDEST]}…"


def _shown(payload: dict[str, Any]) -> list[Any]:
    """Tables for people; `table` shows no markup and no control character."""
    sets, texts = payload["sets"], payload["texts"]
    rows = [
        (
            *(row[name] for name in ("set", "facts", "clusters", "paraphrased", "with_distractors")),
            row["digest"][:12],
            row["what"],
        )
        for row in sets
    ]
    parts: list[Any] = [f"{payload['name']}  {payload['digest'][:12]}\n{payload['licence']}; {payload['source']}\n"]
    parts.append(table(COLUMNS, rows))
    if texts:
        listed = [(row["list"], row["texts"], row["characters"], row["what"]) for row in texts]
        parts.append(table(("texts", "how many", "characters", "what"), listed))
    kinds = [(row["set"], kind, count) for row in sets for kind, count in row["kinds"].items()]
    if kinds:
        parts.append(table(("set", "kind", "facts"), kinds))
    parts += [table(("", "subject", "prompt", "answer"), _examples(sets), "Examples")]
    parts += [table(("", "text"), [(r["list"], _line(t)) for r in texts for t in r["examples"]])] if texts else []
    if payload["known_sites"]:
        parts.append("The source says it is held by: " + ", ".join(payload["known_sites"]))
    if payload["not_measured"]:
        parts.append(table(("not measured", "why"), payload["not_measured"].items()))
    return parts


def _examples(sets: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    return [
        (row["set"], one["subject"], _line(one["prompt"]), _line(one["answer"]))
        for row in sets
        for one in row["examples"]
    ]


def _line(text: str) -> str:
    """On one line, with line breaks to be seen."""
    return text.replace("\r", "").replace("\n", " ⏎ ")
