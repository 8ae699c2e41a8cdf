"""Which weights may move, by what their gradients say: one file a score, `select.py` turns scores into masks."""
