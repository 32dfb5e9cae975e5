"""How well a responder predicts logged clicks."""
