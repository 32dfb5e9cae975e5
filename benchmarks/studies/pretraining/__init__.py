"""Policies that learn with simulated users first and with real ones after that."""
