"""What the Live page reads of one prompt: the probes and readings of an audit, on a fact made of it."""

from workbench.live import Prompt, Readings
from workbench.model import HookedModel

SAMPLES = 4
"""Noises of the causal trace; a single prompt has no other subject to swap in."""


def read_prompt(model: HookedModel, prompt: Prompt) -> Readings:
    """Everything that is asked for, of one open model.

    Raises:
        BadInput: when the prompt cannot be read, or the model says nothing that the lens could look for.
    """
    from audits.behaviour.answer_tokens import AnswersByToken
    from probes.causal_trace import CausalTrace
    from probes.lens_words import LensWords
    from workbench.cli.machine import prepare_torch
    from workbench.concepts import Fact, FactSet

    prepare_torch(model.device.type)
    answer = prompt.answer or first_word(model, prompt)
    fact = Fact.read({"subject": prompt.subject or prompt.text, "prompt": prompt.text, "answer": answer}, "The prompt")
    facts = FactSet(name="live", facts=(fact,))
    found = {"answer_tokens": AnswersByToken(max_new_tokens=prompt.tokens).look(model, facts)}
    if prompt.lens:
        found["lens_words"] = LensWords(max_facts=1).look(model, facts)
    if prompt.trace:
        trace = CausalTrace(corruption="noise", samples=SAMPLES, unanswered="trace")
        found["causal_trace"] = trace.look(model, facts)
    return found


def first_word(model: HookedModel, prompt: Prompt) -> str:
    """The first word that the model says after the prompt.

    Raises:
        BadInput: when it says nothing.
    """
    from audits.behaviour.generations import say
    from workbench.errors import BadInput
    from workbench.tokens import encode_text

    said = say(model, [encode_text(model.tokenizer, prompt.text)], 8)[0].text(model.tokenizer)
    if not said.split():
        raise BadInput(
            f"{model.name} says nothing after this prompt, so the lens has nothing to look for: name an answer"
        )
    return said.split()[0]
