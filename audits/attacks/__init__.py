"""Attacks: edits made by the auditor, with their budget in their options. The same readings are taken with them on."""

from workbench.registry import Registry

ATTACKS = Registry(
    "attack",
    {
        "relearn": "audits.attacks.relearn:Relearn",
        "quantise": "audits.attacks.quantise:Quantise",
        "bfloat16": "audits.attacks.bfloat16:RoundToBfloat16",
        "prune": "audits.attacks.prune:Prune",
        "prune_difference": "audits.attacks.prune_difference:PruneDifference",
        "noise": "audits.attacks.noise:Noise",
        "orthogonalise": "audits.attacks.orthogonalise:Orthogonalise",
        "few_shot": "audits.attacks.prompts:FewShot",
        "jailbreak": "audits.attacks.prompts:Jailbreak",
        "in_context": "audits.attacks.in_context:InContext",
        "rwku_prompts": "audits.attacks.rwku_prompts:RwkuPrompts",
        "prompt_search": "audits.attacks.prompt_search:PromptSearch",
        "soft_prompt": "audits.attacks.soft_prompt:SoftPrompt",
        "latent_perturbation": "audits.attacks.latent_perturbation:LatentPerturbation",
        "lens_extraction": "audits.attacks.lens_extraction:LensExtraction",
    },
)
