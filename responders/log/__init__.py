"""Session logs: slates that were shown and clicked, on disk, as frames and as batches."""
