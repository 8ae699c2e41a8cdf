"""What a reader should know of a claim, whatever it came to: where it was read, on which facts, what it does not say.

Read it as: the `note` of a piece of evidence. Does not show: why a claim is missing; that is in `why_missing`.
"""

from audits.claims import Claim
from workbench.trace import Trace


def note_of(claim: Claim, places: int) -> str:
    """What is to be said of a claim that was read at so many layers."""
    worst = f"the worst of {places} layers; its interval is simultaneous over them" if places > 1 else ""
    own = {
        "relearn": "on facts the attacker did not train on, after the last step",
        "relearn_subjects": "on subjects the attacker did not train on, after the last step",
        "relearn_near": "after the last step",
        "relearn_text": "after the last step",
        "sampling": "computed exactly from the answer's probability",
        "probe": "trained on other subjects' facts of the same relation; decodable is not the same as used",
    }
    return "; ".join(part for part in (own.get(claim.id, ""), worst) if part)


def codes_of(trace: Trace) -> str:
    """What the rounded weights have in common with the base's, in words; empty where that was not read."""
    if (kept := trace.notes.get("codes_kept")) is not None:
        return f"{kept:.4g} of the weights inside the blocks round to the same integer as the base's"
    why = trace.notes.get("codes_not_compared", "")
    return f"not compared with the base's integers: {why}" if why else ""
