"""How value vectors are read for an audit: those that speak most for the concept in the base, random ones, and all.

The base finds its own vectors and draws the random ones; every other model is read at the same places.
"""

from collections.abc import Mapping

from audits.reading_ways import Asked
from probes.concept_vectors import ConceptVectors, controls_of, snapshot
from probes.moved_vectors import MovedVectors
from workbench.errors import BadInput
from workbench.sites import Site, parse_sites
from workbench.trace import Trace

RANDOM_VECTORS = "random_vectors.forget"
"""The reading in which the base's draw stands."""


def vectors(asked: Asked) -> Trace:
    """Top tokens of the value vectors that speak most for the concept in the base."""
    options = asked.options
    found = ConceptVectors(score="effect", keep=options.vectors, describe=0)
    sites = (
        vectors_of(asked.base)
        if asked.base
        else tuple(found.look(asked.model, asked.concept.forget).top("site", options.vectors))
    )
    return snapshot(asked.model, sites, k=_tokens_compared(asked))


def random_vectors(asked: Asked) -> Trace:
    """Top tokens of random value vectors of the MLPs that the followed ones lie in: what happened to just any."""
    if asked.base is None:
        others = controls_of(asked.model, vectors_of(asked.own), 0, asked.options.random_vectors)
    elif RANDOM_VECTORS in asked.base:
        others = list(parse_sites(asked.base[RANDOM_VECTORS].labels["site"]))
    else:
        raise BadInput("no random vectors could be drawn in the base, so there are none to follow")
    return snapshot(asked.model, others, k=_tokens_compared(asked))


def _tokens_compared(asked: Asked) -> int:
    """In a small vocabulary the top 50 of any two vectors overlap by chance."""
    return min(asked.options.vector_tokens, max(5, len(asked.model.unembedding) // 20))


def moved_vectors(asked: Asked) -> Trace:
    """How far every value vector moved from what the base's files hold."""
    if asked.base_files is None:
        raise BadInput("the base's files are not at hand, so there is nothing to hold the value vectors against")
    return MovedVectors().look(asked.model, asked.concept.forget, asked.base_files)


def vectors_of(readings: Mapping[str, Trace]) -> tuple[Site, ...]:
    """The concept vectors that the base's readings found.

    Raises:
        BadInput: when the base was not read.
    """
    if "concept_vectors.forget" not in readings:
        raise BadInput("The base model has no concept-vector reading; read the base first")
    return parse_sites(readings["concept_vectors.forget"].labels["site"])
