"""Environments for other libraries, and wrappers."""
