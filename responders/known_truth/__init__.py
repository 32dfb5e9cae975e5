"""Synthetic worlds in which every probability is known."""
