"""Responders: models of how users answer slates."""
