"""Every removal and every guard on the embedded models: what is left, what it cost, and what the audit says.

    python -m bench.unlearning [--kind dense|moe] [--only NAME ...] [--out DIR] [--readme] [--json]

Each row is `workbench unlearn METHOD` with the settings below and `workbench audit` of what it made, in runs that are
kept: the same command goes on where it was stopped. Settings were chosen on this model and seed, a few tries a method,
so a row says what a method can do here, not which method is better.

Columns: share of the forget, near and far answers that greedy decoding gives; the level and the utility verdict of the
audit; seconds that fitting took on this machine; stored tensors that changed (none: a guard, whose weights still hold
everything). Rows with "random" are controls: the same method at random sites, experts or features.
"""

import argparse
import contextlib
import io
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.unlearning_settings import CONCEPT, SETTINGS, Setting
from workbench.cli import main as workbench
from workbench.cli.demo_job import row_of
from workbench.demo.pair import Pair, build_pair
from workbench.evidence import AuditReport

README = Path(__file__).parents[1] / "README.md"
START, END = "<!-- unlearning: made by `make unlearning` -->", "<!-- end of unlearning -->"
COLUMNS = ("method", "where", "forget", "near", "far", "level", "utility", "seconds", "tensors changed")
ROUTING = {"dense": "free", "moe": "topic"}
"""The mixture is routed by topic in training, as in the demo: left alone so small a model does not specialise."""


@dataclass(frozen=True)
class Models:
    """One kind of embedded model and where its runs go."""

    kind: str
    pair: Pair
    folder: Path


def said(*words: object) -> dict[str, Any]:
    """What a command wrote as JSON.

    Raises:
        SystemExit: when it failed; its words are on stderr.
    """
    with contextlib.redirect_stdout(io.StringIO()) as out:
        code = workbench([str(word) for word in (*words, "--json")])
    if code:
        sys.exit(f"workbench {' '.join(map(str, words))} ended with {code}")
    found: dict[str, Any] = json.loads(out.getvalue())
    return found


def row(models: Models, setting: Setting) -> dict[str, Any]:
    """Unlearn, audit, and what came of it."""
    run = models.folder / setting.slug
    made = said("unlearn", setting.method, models.pair.taught, "--concept", CONCEPT, *setting.words, "--out", run)
    found = row_of(setting.label, audited(models, run, setting.slug))
    changed = len(made["receipt"]) if made["kind"] == "weights" else None
    return {**found, "where": setting.where, "seconds": made["seconds"], "tensors changed": changed}


def audited(models: Models, checkpoint: Path, slug: str) -> AuditReport:
    """The audit of a checkpoint or run."""
    reference: tuple[object, ...] = ("--reference", models.pair.reference) if slug != "reference" else ()
    out = models.folder / "audits" / slug
    words = ("--base", models.pair.taught, *reference, "--concept", CONCEPT, "--out", out)
    return AuditReport.model_validate(said("audit", checkpoint, *words)["report"])


def rows(models: Models, only: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The models as they are, then every setting for this kind of model."""
    for name, checkpoint in (("taught", models.pair.taught), ("reference", models.pair.reference)):
        yield {**row_of(name, audited(models, checkpoint, name)), "where": "", "seconds": None, "tensors changed": None}
    for setting in SETTINGS:
        if models.kind in setting.kinds and (not only or setting.method in only or setting.slug in only):
            print(f"{models.kind}: {setting.label} {setting.where}", file=sys.stderr)
            yield row(models, setting)


def cells(found: dict[str, Any]) -> list[str]:
    """One line of the table."""
    shares = ["—" if found[name] is None else f"{found[name]:.2f}" for name in ("forget", "near", "far")]
    seconds = "—" if found["seconds"] is None else f"{found['seconds']:.1f}"
    bare = "" if not found["where"] and found["seconds"] is None else "0 (guard)"
    changed = bare if found["tensors changed"] is None else str(found["tensors changed"])
    return [found["method"], found["where"], *shares, found["level"], found["utility"], seconds, changed]


def markdown(found: dict[str, list[dict[str, Any]]]) -> str:
    """One table a kind of model."""
    lines = []
    for kind, part in found.items():
        lines += [f"**{'Dense' if kind == 'dense' else 'Mixture of experts'}**", ""]
        lines += ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
        lines += ["| " + " | ".join(cells(one)) + " |" for one in part] + [""]
    return "\n".join(lines)


def main() -> None:
    """Run what is asked for and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kind", choices=list(ROUTING), action="append")
    parser.add_argument("--only", nargs="*", default=[], help="methods, or rows by their folder's name")
    parser.add_argument("--out", type=Path, default=Path("runs/unlearning"))
    parser.add_argument("--readme", action="store_true", help="write the tables into README.md")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    found = {}
    for kind in asked.kind or list(ROUTING):
        pair = build_pair(kind, CONCEPT.partition(":")[2], 0, routing=ROUTING[kind])
        found[kind] = list(rows(Models(kind, pair, asked.out / kind), asked.only))
    text = markdown(found)
    if asked.readme:
        old = README.read_text(encoding="utf-8")
        new = "\n".join([START, text.strip(), END])
        README.write_text(re.sub(f"{START}.*?{END}", lambda _: new, old, flags=re.DOTALL), encoding="utf-8")
    print(json.dumps(found, indent=1) if asked.json else text)


if __name__ == "__main__":
    main()
