"""Policies that recommend slates to simulated users."""
