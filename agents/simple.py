"""Policies without learning: random, most popular, and the oracle of a known-truth world."""

from __future__ import annotations
