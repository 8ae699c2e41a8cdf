"""Membership scores: `look(model, facts or texts) -> Trace`, one number a text. This table is the whole list.

`audits.metrics.membership` makes an AUC of two of them, `audits.metrics.privleak` compares that with a retrained
model's; both work on stored traces and open no model.
"""

from workbench.registry import Registry

PRIVACY = Registry(
    "membership score",
    {
        "membership_loss": "audits.privacy.scores:LossScore",
        "membership_zlib": "audits.privacy.scores:ZlibScore",
        "membership_min_k": "audits.privacy.scores:MinKScore",
        "membership_min_k_plus": "audits.privacy.scores:MinKPlusScore",
        "membership_gradient": "audits.privacy.gradient:GradientScore",
    },
)
