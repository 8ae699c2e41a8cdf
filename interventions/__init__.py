"""Interventions: `fit(model, concept, where) -> Edit`. This table is the whole list; a new one is a file and a line.

They never import probes: *where* to act comes as data, so any localiser can drive any intervention.
"""

from workbench.registry import Registry

INTERVENTIONS = Registry(
    "intervention",
    {
        "concept_ablation": "interventions.concept_ablation:ConceptAblation",
        "grad_ascent": "interventions.gradient.grad_ascent:GradAscent",
        "npo": "interventions.gradient.npo:Npo",
    },
)
