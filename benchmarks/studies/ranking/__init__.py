"""Offline ranking: how early policies list what users of a log clicked next."""
