"""Parts that responders are composed of."""
