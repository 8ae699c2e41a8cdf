"""Interventions: `fit(model, concept, where) -> Edit`. This table is the whole list; a new one is a file and a line.

They never import probes: *where* to act comes as data, so any localiser can drive any intervention.
"""

from workbench.registry import Registry

INTERVENTIONS = Registry(
    "intervention",
    {
        # weights, at chosen places
        "concept_ablation": "interventions.concept_ablation:ConceptAblation",
        "single_expert": "interventions.single_expert:SingleExpert",
        "rmu": "interventions.rmu:Rmu",
        "adaptive_rmu": "interventions.rmu:AdaptiveRmu",
        "ssd": "interventions.ssd:Ssd",
        "projection_erasure": "interventions.projection_erasure:ProjectionErasure",
        "crisp": "interventions.crisp:Crisp",
        "causal_layers": "interventions.causal_layers:CausalLayers",
        # weights, everywhere or where a localiser says
        "task_vector": "interventions.task_vector:TaskVector",
        "grad_ascent": "interventions.gradient.grad_ascent:GradAscent",
        "grad_diff": "interventions.gradient.grad_diff:GradDiff",
        "npo": "interventions.gradient.npo:Npo",
        "simnpo": "interventions.gradient.simnpo:SimNpo",
        "dpo": "interventions.gradient.dpo:Dpo",
        "idk_nll": "interventions.gradient.idk_nll:IdkNll",
        "undial": "interventions.gradient.undial:Undial",
        "ce_u": "interventions.gradient.ce_u:CeU",
        "satimp": "interventions.gradient.satimp:SatImp",
        "wga": "interventions.gradient.wga:Wga",
        "pdu": "interventions.gradient.pdu:Pdu",
        "flat": "interventions.gradient.flat:Flat",
        "ihl": "interventions.gradient.ihl:Ihl",
        "max_entropy": "interventions.gradient.max_entropy:MaxEntropy",
        "unlikely": "interventions.gradient.unlikely:Unlikely",
        "whp": "interventions.gradient.whp:Whp",
        "random_label": "interventions.gradient.random_label:RandomLabel",
        "ugradsl": "interventions.gradient.ugradsl:UGradSl",
        "l1_sparse": "interventions.gradient.l1_sparse:L1Sparse",
        "retain_finetune": "interventions.gradient.retain_finetune:RetainFinetune",
        # guards: hooks on unchanged weights
        "sae_suppression": "interventions.sae_suppression:SaeSuppression",
        "dsg": "interventions.dsg:Dsg",
        "neuron_adjust": "interventions.neuron_adjust:NeuronAdjust",
        "key_space_detection": "interventions.key_space_detection:KeySpaceDetection",
        "embedding_corruption": "interventions.guards.embedding_corruption:EmbeddingCorruption",
        "logit_difference": "interventions.guards.logit_difference:LogitDifference",
        "guard_decoding": "interventions.guards.guard_decoding:GuardDecoding",
    },
)
