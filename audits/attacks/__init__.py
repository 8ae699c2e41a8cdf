"""Attacks: edits made by the auditor, with their budget in their options. The same readings are taken with them on."""

from workbench.registry import Registry

ATTACKS = Registry(
    "attack",
    {
        "relearn": "audits.attacks.relearn:Relearn",
        "quantise": "audits.attacks.quantise:Quantise",
        "few_shot": "audits.attacks.prompts:FewShot",
        "jailbreak": "audits.attacks.prompts:Jailbreak",
    },
)
