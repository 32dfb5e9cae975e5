"""The same measurements of other projects."""
