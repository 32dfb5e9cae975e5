"""The report of a responder on a log, as in `recsim evaluate` and `recsim compare`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from responders.evaluation.metrics import METRICS, evaluate
from responders.evaluation.predict import Predictions, predict
from responders.known_truth.world import truth_of
from responders.log.batch import Part
from responders.log.session_log import SessionLog
from responders.models.base import Responder

DRAWS = 32
"""Default number of answers drawn per slate for unconditional metrics."""


@dataclass(frozen=True)
class Report:
    """Metrics of a responder and the predictions that they were computed from.

    Args:
        metrics: those of `responders.evaluation.metrics.evaluate`, conditional on the clicks above
            in the same slate; `unconditional_<metric>` if unconditional predictions were made;
            `bayes_log_loss`, `bayes_auc` and `bayes_estimated` (bool) for a synthetic log.
        conditional: predictions given the clicks above in the same slate.
        unconditional: predictions for the same positions, averaged over those clicks; None if they
            were not made or would be the same.
    """

    metrics: dict[str, Any]
    conditional: Predictions
    unconditional: Predictions | None = None

    def points(self) -> dict[str, float | None]:
        """Return every metric and `unconditional_<metric>`, without intervals.

        The two are equal for a responder that does not read the clicks above.
        """
        metrics = self.metrics
        return {name: metrics[name] for name in METRICS} | {
            f"unconditional_{name}": metrics.get(f"unconditional_{name}", metrics[name])
            for name in METRICS
        }


def make_report(
    responder: Responder,
    log: SessionLog,
    part: Part,
    threshold: float,
    *,
    draws: int = DRAWS,
    device: torch.device | str = "cpu",
    resamples: int = 200,
    bayes: bool = True,
    progress: bool = False,
) -> Report:
    """Return the metrics of `responder` on the counted positions of `part`.

    Args:
        responder: on `device`.
        log: the log.
        part: the sessions, and which of their slates count.
        threshold: probability from which F1 and accuracy predict a click.
        draws: answers per slate for unconditional metrics, which are only computed for a responder
            that reads the clicks above; 0 = none.
        device: of the responder.
        resamples: bootstrap resamples of users for 95 % intervals; 0 = no intervals.
        bayes: for a synthetic log, add the Bayes optimum on the same positions.
        progress: show progress bars.

    Raises:
        InputError: `part` has no counted positions.
    """
    predict_part = partial(predict, log=log, part=part, progress=progress)
    conditional = predict_part(responder, device=device)
    unconditional = None
    if draws and responder.reads_clicks_above:
        unconditional = predict_part(responder, device=device, draws=draws)
    report = report_of(conditional, unconditional, threshold, resamples=resamples)
    truth = truth_of(log) if bayes else None
    if truth is not None:
        best = evaluate(predict_part(truth), threshold, resamples=0)
        report.metrics.update({f"bayes_{name}": best[name] for name in ("log_loss", "auc")})
        report.metrics["bayes_estimated"] = truth.config.hidden > 0
    return report


def report_of(
    conditional: Predictions,
    unconditional: Predictions | None,
    threshold: float,
    *,
    resamples: int = 200,
) -> Report:
    """Return the report of existing predictions; arguments as in `make_report`."""
    metrics = evaluate(conditional, threshold, resamples=resamples)
    if unconditional is not None:
        averaged = evaluate(unconditional, threshold, resamples=0)
        metrics |= {f"unconditional_{name}": averaged[name] for name in METRICS}
    return Report(metrics, conditional, unconditional)
