"""Gradient unlearning: one file a loss, one shape (`descend.GradientMethod`) for all."""
