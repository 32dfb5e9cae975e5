"""What the readers of raw logs share."""
