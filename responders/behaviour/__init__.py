"""Users leaving and coming back, the rules of valid slates, and the support of a log."""
