"""Gradient unlearning: one file a loss, one loop (`descend`) for all."""
