"""Published results that ours are compared with."""

from __future__ import annotations

from responders import SessionLog

PUBLISHED: dict[str, dict[str, tuple[float, float, float]]] = {
    "contentwise": {
        "mf": (0.653, 0.198, 0.260),
        "logistic_regression": (0.685, 0.275, 0.759),
        "slate_gru": (0.744, 0.331, 0.860),
        "slate_gru:readout=differentiable_sample": (0.730, 0.283, 0.891),
        "session_gru": (0.740, 0.308, 0.739),
        "hierarchical_gru": (0.725, 0.300, 0.826),
        "slate_transformer": (0.740, 0.328, 0.839),
        "session_transformer": (0.704, 0.284, 0.774),
        "transformer_gru": (0.737, 0.317, 0.850),
        "scot": (0.715, 0.306, 0.813),
    },
    "rl4rs": {
        "mf": (0.717, 0.761, 0.659),
        "logistic_regression": (0.912, 0.879, 0.837),
        "slate_gru": (0.923, 0.884, 0.845),
        "slate_gru:readout=differentiable_sample": (0.919, 0.884, 0.848),
        "session_gru": (0.861, 0.851, 0.793),
        "hierarchical_gru": (0.860, 0.851, 0.796),
        "slate_transformer": (0.930, 0.890, 0.853),
        "session_transformer": (0.925, 0.885, 0.843),
        "transformer_gru": (0.877, 0.856, 0.808),
        "scot": (0.934, 0.896, 0.865),
    },
}
"""AUC, F1 and accuracy on the test split of each log as published with arXiv 2409.20055, with the
best embedding of each model."""


def published_for(log: SessionLog) -> dict[str, tuple[float, float, float]]:
    """Return the published results for this log; empty if there are none."""
    name = str(log.card.get("name"))
    for known, figures in PUBLISHED.items():
        if not log.synthetic and (name == known or name.startswith(f"{known}-")):
            return figures
    return {}
