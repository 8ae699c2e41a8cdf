"""Options that several verbs share, so that they are called the same and read the same everywhere."""

import functools
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from workbench.errors import BadInput

CHECKPOINT = "A folder, a hub id org/name[@revision], or BASE+ADAPTER (a LoRA)"
"""What every verb that opens a model takes."""

ConceptName = Annotated[
    str,
    typer.Option(
        "--concept",
        metavar="SPEC",
        help="What is to be forgotten: demo:chemistry, tofu:forget10, rwku:NAME, ... "
        "or a .json, .jsonl or .yaml file of facts. `workbench list concepts`, `workbench data SPEC`.",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="An option of the method; may be given many times. `workbench VERB METHOD --help` shows them with their "
        "defaults, or `workbench list KIND NAME`.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="DIR", help="Folder to write into; by default one under runs/ named after the question."
    ),
]
Seed = Annotated[int | None, typer.Option("--seed", metavar="N", help="Seed of everything the method draws at random.")]
Device = Annotated[str, typer.Option("--device", metavar="NAME", help="Torch device: cpu, cuda, cuda:1, mps.")]
AsJson = Annotated[bool, typer.Option("--json", help="Write the result to stdout as one JSON object.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Write nothing to stderr unless something is wrong.")]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")]

OPENING: dict[str, tuple[Any, Any]] = {
    "device": (Device, "cpu"),
    "dtype": (
        Annotated[
            str,
            typer.Option(
                "--dtype",
                metavar="NAME",
                help="Precision of the weights: auto (the checkpoint's own), float32, bfloat16, float16, float64.",
            ),
        ],
        "auto",
    ),
    "device_map": (
        Annotated[
            str | None,
            typer.Option(
                "--device-map", metavar="MAP", help="Spread the weights: auto, or JSON of module names to devices."
            ),
        ],
        None,
    ),
    "max_memory": (
        Annotated[
            str | None,
            typer.Option(
                "--max-memory", metavar="JSON", help="""With --device-map auto: {"0": "20GiB", "cpu": "60GiB"}."""
            ),
        ],
        None,
    ),
    "offline": (
        Annotated[bool, typer.Option("--offline", help="Use only hub files that are in the local cache.")],
        False,
    ),
    "allow_pickle": (
        Annotated[bool, typer.Option("--allow-pickle", help="Read pickled weights where there are no safetensors.")],
        False,
    ),
    "trust_remote_code": (
        Annotated[
            bool, typer.Option("--trust-remote-code", help="Execute the Python code that a checkpoint brings along.")
        ],
        False,
    ),
    "allow_unused_tensors": (
        Annotated[
            bool,
            typer.Option(
                "--allow-unused-tensors", help="Open a checkpoint whose files hold tensors its config has no place for."
            ),
        ],
        False,
    ),
}
"""Fields of `workbench.opening.Opening` -> their option on the command line and what holds without it."""


def opens_models(verb: Callable[..., None]) -> Callable[..., None]:
    """Give a verb the options that say how checkpoints are opened; it gets them as one `opening`.

    The verb's parameter `opening` is replaced by the options of `OPENING`, for typer to read.
    """
    signature = inspect.signature(verb)
    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in OPENING.items()
    ]
    own = [p for p in signature.parameters.values() if p.name != "opening"]
    split = [p.name for p in own].index("as_json")  # --json and --quiet come last in every help

    @functools.wraps(verb)
    def with_opening(**given: Any) -> None:
        said = {name: given.pop(name) for name in OPENING if name in given}
        verb(**given, opening=opening_of(**said))

    ordered = [
        *(p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own[:split]),
        *options,
        *(p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own[split:]),
    ]
    with_opening.__signature__ = signature.replace(parameters=ordered)  # type: ignore[attr-defined]
    with_opening.__annotations__ = {p.name: p.annotation for p in ordered}
    return with_opening


def opening_of(**words: Any) -> Any:
    """The `Opening` that the words of a command line stand for.

    Raises:
        BadInput: for a value that is not allowed.
    """
    from workbench.opening import Opening

    for name in ("device_map", "max_memory"):
        text = words.get(name)
        if text is not None and text != "auto":
            words[name] = _mapping(f"--{name.replace('_', '-')}", text)
    return Opening(**words)


def _mapping(option: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise BadInput(
            f"{option} {text!r} is not JSON. Write a mapping in quotes, for instance {option} "
            """'{"0": "20GiB"}' or '{"model": "cuda:0", "lm_head": "cuda:1"}'"""
        ) from None


def default_out(verb: str, name: str, run_id: str) -> Path:
    """Where a run goes when `--out` does not say: the same question always goes to the same folder."""
    return Path("runs") / f"{verb}-{name}-{run_id}"
