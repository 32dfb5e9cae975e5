"""From a log to a trained responder on disk."""
