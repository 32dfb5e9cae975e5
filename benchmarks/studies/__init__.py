"""Studies: comparisons of responders, leaderboards of policies, losses of recommenders."""
