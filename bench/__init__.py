"""Measurements, side by side in one run. Nothing here is a test; ratios are what counts."""
