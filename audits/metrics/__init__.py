"""Metrics as pure functions of numbers: one file a metric, with its formula, its source and where code departs from it.

None of them opens a model. `audits.behaviour` and `audits.privacy` take the readings that they are computed from.
"""
