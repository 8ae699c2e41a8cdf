"""How the routing of a mixture is read for the pages: each set's tokens by expert, and how far they are sent elsewhere.

The base is read first; where it sends the tokens is stored in half precision, and the other models are compared with
that, so one model is open at a time (`audits.behaviour.kl_to_base` does the same with next-token distributions).
Read it as: facts keep the numbers they have in their set, also where only some of them are read.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from audits.reading_ways import Asked, Needs, no_mixture, no_trace
from probes.expert_shift import ExpertShift, RoutingSnapshot
from workbench.concepts import FactSet
from workbench.errors import BadInput
from workbench.trace import Trace


def no_expert_facts(name: str) -> Callable[[Asked], str]:
    """Experts and a set of facts are needed."""
    return lambda asked: no_mixture(asked) or Needs(name)(asked)


def no_expert_trace(asked: Asked) -> str:
    """Experts and facts to trace are needed."""
    return no_mixture(asked) or no_trace(asked)


def routed(name: str) -> Callable[[Asked], Trace]:
    """Where the base sends the tokens of some facts, in half precision: what others are compared with."""

    def take(asked: Asked) -> Trace:
        trace = RoutingSnapshot().look(asked.model, _spread(asked, name)[1])
        return replace(trace, values=trace.values.astype(np.float16))

    return take


def rerouted(name: str) -> Callable[[Asked], Trace]:
    """Against the base's routing; of the base itself, against its own stored one. Facts keep their numbers."""

    def take(asked: Asked) -> Trace:
        donor = (asked.own if asked.base is None else asked.base).get(f"routing_snapshot.{name}")
        if donor is None:
            raise BadInput("the base's routing could not be read, so there is nothing to compare with")
        places, facts = _spread(asked, name)
        trace = ExpertShift().look(asked.model, facts, donor)
        every = asked.facts(name).labels
        return replace(trace, labels={**trace.labels, "fact": tuple(every[i] for i in places)})

    return take


def _spread(asked: Asked, name: str) -> tuple[list[int], FactSet]:
    """As many facts of a set as the budget allows, evenly spread: neighbours in a set are often about one subject."""
    facts = asked.facts(name)
    if len(facts) <= asked.options.shift_facts:
        return list(range(len(facts))), facts
    places = np.linspace(0, len(facts) - 1, asked.options.shift_facts).round().astype(int).tolist()
    return places, facts.take(places, "spread")
