"""Unlearning losses as pure functions of logits: one file a loss, tables of their quirks in docs/losses.md."""
