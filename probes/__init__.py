"""Probes: readings taken inside one model. A new one is a file here and a line below."""

from workbench.registry import Registry

PROBES = Registry(
    "probe",
    {
        "attribution_patching": "probes.attribution_patching:AttributionPatching",
        "causal_trace": "probes.causal_trace:CausalTrace",
        "concept_vectors": "probes.concept_vectors:ConceptVectors",
        "depth_score": "probes.depth_score:DepthScore",
        "expert_attribution": "probes.expert_attribution:ExpertAttribution",
        "expert_shift": "probes.expert_shift:ExpertShift",
        "lens_words": "probes.lens_words:LensWords",
        "linear_probes": "probes.linear_probes:LinearProbes",
        "logit_lens": "probes.logit_lens:LogitLens",
        "moved_vectors": "probes.moved_vectors:MovedVectors",
        "patch_back": "probes.patch_back:PatchBack",
        "probe_kinds": "probes.probe_kinds:ProbeKinds",
        "sae_features": "probes.sae_features:SaeFeatures",
        "token_routing": "probes.token_routing:TokenRouting",
        "vector_change": "probes.vector_comparison:VectorChange",
        "vector_validation": "probes.vector_validation:VectorValidation",
        "weight_deltas": "probes.weight_deltas:WeightDeltas",
    },
)
"""Every probe: name -> where its class is."""
