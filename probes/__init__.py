"""Probes: readings taken inside one model. A new one is a file here and a line below."""

from workbench.registry import Registry

PROBES = Registry(
    "probe",
    {
        "causal_trace": "probes.causal_trace:CausalTrace",
        "concept_vectors": "probes.concept_vectors:ConceptVectors",
        "expert_attribution": "probes.expert_attribution:ExpertAttribution",
        "linear_probes": "probes.linear_probes:LinearProbes",
        "logit_lens": "probes.logit_lens:LogitLens",
    },
)
"""Every probe: name -> where its class is."""
