"""Tasks of lm-evaluation-harness (MMLU, WMDP, TruthfulQA, ...) on an open model, with whatever it wears.

Source: EleutherAI's lm-evaluation-harness, `pip install unlearning-workbench[harness]`. Its own Hugging Face model
would run the weights without our guards and hand it padded rows; this one answers the harness's three kinds of requests
through the same passes as every other reading here. Contexts that do not fit are cut on the left, as the harness does.
Read it as: `harness_tasks(model, ["wmdp_bio", "mmlu"])`: a trace with one number a task and metric, as the harness
names them. Tasks fetch their data themselves; offline, give `include` a folder with task files and data of your own.
Does not show: items; the harness's own log does. Chat templates are not applied.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from audits.behaviour.answer_reading import read_answers
from workbench.errors import BadInput
from workbench.generation import greedy, room
from workbench.model import HookedModel
from workbench.tokens import Encoded
from workbench.trace import Trace

NEW_TOKENS = 256
"""Tokens generated at most when a task does not say, as the harness has it."""


def harness_tasks(
    model: HookedModel,
    tasks: Sequence[str | dict[str, Any]],
    *,
    shots: int | None = None,
    limit: int | None = None,
    include: str | None = None,
) -> Trace:
    """Run tasks.

    Args:
        model: who is asked.
        tasks: names as `lm_eval ls tasks` shows them, or configurations as dictionaries.
        shots: answered examples in front; what each task says when None.
        limit: items of each task; None for all.
        include: folder with further task files.

    Returns:
        Axis (task): `task/metric` with its value; the notes hold the standard errors and the harness's version.

    Raises:
        BadInput: when the harness is not installed, or no task is named.
    """
    evaluator, manager = _harness("lm_eval.evaluator"), _harness("lm_eval.tasks")
    if not tasks:
        raise BadInput("Name at least one task, for instance mmlu or wmdp_bio")
    found = evaluator.simple_evaluate(
        model=harness_model(model),
        tasks=list(tasks),
        num_fewshot=shots,
        limit=limit,
        task_manager=manager.TaskManager(include_path=include),
        log_samples=False,
        bootstrap_iters=1000,
    )
    numbers, errors = _numbers(found["results"])
    notes = {
        "model": model.name,
        "identity": model.identity,
        "options": {"shots": shots, "limit": limit},
        "standard_error": errors,
        "harness": str(_harness("lm_eval").__version__),
    }
    return Trace("harness", np.array(list(numbers.values())), ("task",), "as named", {"task": tuple(numbers)}, notes)


def harness_model(model: HookedModel) -> Any:
    """An `lm_eval` model that answers through the open one.

    Raises:
        BadInput: when the harness is not installed.
    """
    template = _harness("lm_eval.api.model").TemplateLM
    return type("OpenModel", (_Answers, template), {"__doc__": _Answers.__doc__})(model)


def _harness(module: str) -> Any:
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError as error:
        raise BadInput(
            f"lm-evaluation-harness is not installed ({error}). It is an extra: "
            "pip install 'unlearning-workbench[harness]'"
        ) from None


def _numbers(results: dict[str, dict[str, Any]]) -> tuple[dict[str, float], dict[str, float]]:
    """`task/metric` -> value, and -> standard error where there is one."""
    numbers: dict[str, float] = {}
    errors: dict[str, float] = {}
    for task, row in results.items():
        for key, value in row.items():
            metric = key.removesuffix(",none")
            if isinstance(value, bool) or not isinstance(value, int | float) or metric == "sample_len":
                continue
            name = f"{task}/{metric.replace('_stderr', '')}"
            (errors if "_stderr" in metric else numbers)[name] = float(value)
    return numbers, errors


class _Answers:
    """The harness's requests, answered by an open model."""

    def __init__(self, model: HookedModel) -> None:
        super().__init__()
        self.open = model
        self.tokenizer = model.tokenizer

    @property
    def eot_token_id(self) -> int:
        """End of text."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without context."""
        first = self.tokenizer.bos_token_id
        return self.eot_token_id if first is None else int(first)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.open.device

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Token ids; special tokens in front unless told otherwise."""
        return list(self.tokenizer(string, add_special_tokens=add_special_tokens is not False)["input_ids"])

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        """Log-probability of each continuation, and whether greedy decoding gives it."""
        rows = [self._fitting(context, said) for _, context, said in requests]
        return [(float(t.logprob.double().sum()), bool(t.hit.all())) for t in read_answers(self.open, rows)]

    def _fitting(self, context: Sequence[int], said: Sequence[int]) -> Encoded:
        left = room(self.open, [said])
        kept = list(context) if left is None else list(context)[-max(1, left) :]
        return Encoded((*kept, *said), len(kept), ())

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:  # noqa: ARG002
        """Log-probability of whole texts, each token from those before it."""
        rows = [((), [self.prefix_token_id], self.tok_encode(r.args[0], False)) for r in requests]
        return [logprob for logprob, _ in self._loglikelihood_tokens(rows)]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:  # noqa: ARG002
        """Greedy continuations, cut at the first stop.

        Raises:
            BadInput: when a task asks for samples.
        """
        return [self._until(*request.args) for request in requests]

    def _until(self, context: str, how: dict[str, Any]) -> str:
        if how.get("do_sample") and how.get("temperature", 1.0) > 0:
            raise BadInput("This task asks for samples; only greedy generation is offered here")
        stops, count = how.get("until") or [], int(how.get("max_gen_toks", NEW_TOKENS))
        given = self.tok_encode(context)
        left = room(self.open, [given])
        if left is not None and left < count:
            limit = left + len(given)
            count = min(count, limit // 2)
            given = given[-(limit - count) :]
        text = greedy(self.open, [given], count)[0].text(self.tokenizer)
        for stop in [stops] if isinstance(stops, str) else stops:
            text = text.split(stop)[0] if stop else text
        return text
