"""Part 4 of a report: what follows, in plain words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from benchmarks.studies.fidelity.cases import Data
from benchmarks.studies.fidelity.estimates import RESPONDER
from benchmarks.studies.fidelity.prediction import RARE
from responders.config import Config, setting
from responders.log.counts import count


@dataclass(frozen=True)
class Thresholds(Config):
    """From when on a report says that something is wrong."""

    ece: float = setting(0.02, "Calibration error of probabilities.", gt=0)
    c2st: float = setting(0.55, "AUC of telling simulated from logged sessions.", ge=0.5, le=1)
    tau: float = setting(0.9, "Kendall's τ of the values of policies.", ge=-1, le=1)
    value_error: float = setting(0.1, "Relative error of the value of a policy.", gt=0)
    exploitability: float = setting(0.1, "What an optimised policy promises too much.", gt=0)
    rare: float = setting(0.1, "Share of an agent's impressions beyond what the log shows.", gt=0)


class Sentence(NamedTuple):
    """One statement of the verdict: whether it is good news, and the words."""

    level: Literal["good", "bad", "unknown"]
    text: str


def verdict(facts: Mapping[str, Any], limits: Thresholds) -> list[Sentence]:
    """Return what can be trusted of a responder and what cannot.

    Args:
        facts: of the responder, from the parts of the report.
        limits: the thresholds.
    """
    return [
        *_prediction(facts["prediction"], limits),
        *_sessions(facts["generation"], limits),
        *_policies(facts.get("counterfactual"), limits),
        *_estimates(facts.get("estimates", ())),
        *_coverage(facts.get("exploit"), facts["coverage"], limits),
    ]


def coverage(data: Data) -> dict[str, Any]:
    """Return how many items the log shows often, and their share of all impressions."""
    shown = count(data.log, data.known)[0].sum(1)
    often = shown >= RARE
    return {
        "items": len(shown),
        "often": int(often.sum()),
        "share": float(shown[often].sum() / shown.sum()),
        "never": int((shown == 0).sum()),
    }


def _prediction(found: Mapping[str, Any], limits: Thresholds) -> list[Sentence]:
    if "too_small" in found:
        return [Sentence("unknown", f"Single answers: {found['too_small']}.")]
    baseline = found["baseline"]
    better = baseline["gain_low"] > 0
    words = "better than by" if better else "no better than by"
    beats = (
        f"Single answers are predicted {words} {baseline['name']}, which only counts (log-loss "
        f"{found['log_loss']:.4f} and {baseline['log_loss']:.4f})."
    )
    calibrated = found["ece"] <= limits.ece
    probabilities = (
        f"Probabilities can be taken at face value (calibration error {found['ece']:.3f})."
        if calibrated
        else f"Probabilities are off by {found['ece']:.3f} on average: calibrate them before use."
    )
    return [
        Sentence("good" if better else "bad", beats),
        Sentence("good" if calibrated else "bad", probabilities),
    ]


def _sessions(found: Mapping[str, Any], limits: Thresholds) -> list[Sentence]:
    test, sentences = found["c2st"], []
    if "too_small" in test:
        sentences.append(Sentence("unknown", f"Whole sessions: {test['too_small']}."))
    elif test["low"] <= 0.5:
        words = (
            f"A classifier cannot tell simulated sessions from logged ones (AUC {_range(test)})."
        )
        sentences.append(Sentence("good", words))
    else:
        alike = test["auc"] <= limits.c2st
        seen = "; ".join(row["feature"] for row in test["telling"][:3])
        words = "hardly tells" if alike else "tells"
        sentences.append(
            Sentence(
                "good" if alike else "bad",
                f"A classifier {words} simulated sessions from logged ones (AUC {_range(test)}). "
                f"What gives them away: {seen}.",
            )
        )
    statistics = found["statistics"].values()
    off = sorted(
        (s for s in statistics if "distance" in s and s["distance_low"] > s["floor_high"]),
        key=lambda s: -s["distance"],
    )
    sentences += [
        Sentence(
            "bad",
            f"Off by more than chance: {s['title']} ({s['distance']:.0%}; two halves of the log "
            f"differ by {s['floor']:.1%}).",
        )
        for s in off[:4]
    ]
    untold = [s["title"].split(" (")[0] for s in statistics if "too_small" in s]
    if len(untold) == len(statistics):
        sentences.append(Sentence("unknown", "The log is too small for any statistic of sessions."))
    elif untold:
        sentences.append(Sentence("unknown", f"The log cannot tell: {'; '.join(untold)}."))
    return sentences


def _range(test: Mapping[str, Any]) -> str:
    return f"{test['auc']:.3f}, {test['low']:.3f} to {test['high']:.3f}"


def _policies(found: Mapping[str, Any] | None, limits: Thresholds) -> list[Sentence]:
    if found is None:
        words = (
            "Rankings of policies cannot be checked: the log is of real users, whose answers to "
            "other slates are unknown."
        )
        return [Sentence("unknown", words)]
    n, tau, safe = len(found["policies"]), found["kendall_tau"], found["safe_difference"]
    means = [row["learned"] for row in found["policies"]]
    if max(means) <= min(means) * 1.001:
        ranking = Sentence("bad", f"All of {n} policies are worth the same to it: it ranks none.")
    else:
        order = (
            f"it ordered all pairs of {n} policies as the truth does"
            if not safe
            else "trust the order of policies that differ by more than "
            f"{safe:{'.0%' if safe > 0.01 else '.1%'}}; it was wrong for pairs closer than that"
        )
        level: Any = "good" if tau >= limits.tau else "bad"
        ranking = Sentence(
            level,
            f"Rankings: {order} (Kendall's τ {tau:.2f}, {found['tau_low']:.2f} to "
            f"{found['tau_high']:.2f}). Its pick, {found['pick']}, loses {found['regret']:.0%} of "
            "the best value.",
        )
    error, gap = found["value_error"], found["exploitability"]
    values = Sentence(
        "good" if error <= limits.value_error else "bad",
        f"Values of policies are off by {error:.0%} on average"
        + ("." if error <= limits.value_error else ": do not take them at face value."),
    )
    honest = found["exploitability_low"] <= limits.exploitability and gap <= limits.exploitability
    promise = f"A policy optimised against it promises {_signed(gap)} it is worth in truth"
    advice = "." if honest else ": do not deploy what was only optimised here."
    interval = f"{found['exploitability_low']:+.0%} to {found['exploitability_high']:+.0%}"
    return [
        ranking,
        values,
        Sentence("good" if honest else "bad", f"{promise} ({interval}){advice}"),
    ]


def _estimates(found: Iterable[Mapping[str, Any]]) -> list[Sentence]:
    """Return whether the value of another policy is predicted, where it is known."""
    sentences = []
    for target in found:
        if target["real"] is None:
            continue
        name = target["target"]
        if "too_small" in target:
            sentences.append(Sentence("unknown", f"Value of {name}: {target['too_small']}."))
            continue
        own = next(row for row in target["estimates"] if row["name"] == RESPONDER)
        fits = own["low"] <= target["real_high"] and own["high"] >= target["real_low"]
        words = (
            f"It predicts {own['value']:.4f} clicks a slate for {name} ({own['low']:.4f} to "
            f"{own['high']:.4f}), which really got {target['real']:.4f} "
            f"({target['real_low']:.4f} to {target['real_high']:.4f})"
        )
        verdict = "the log does not contradict it" if fits else "it is wrong"
        sentences.append(Sentence("good" if fits else "bad", f"{words}: {verdict}."))
    return sentences


def _signed(gap: float) -> str:
    """Return "8 % more than", "exactly what" and so on."""
    if abs(gap) < 5e-4:
        return "exactly what"
    return f"{abs(gap):.0%} {'more' if gap > 0 else 'less'} than"


def _coverage(
    exploited: Mapping[str, Any] | None, covered: Mapping[str, Any], limits: Thresholds
) -> list[Sentence]:
    often = (
        f"The log shows {covered['often']:,} of {covered['items']:,} items {RARE} times or more; "
        f"they are {covered['share']:.1%} of its impressions"
    )
    if exploited is None:
        return [Sentence("unknown", f"{often}.")]
    rare, usual = exploited["rare"], exploited["rare_in_log"]
    words = (
        f"{often}. A policy optimised against it gives {rare:.0%} of its impressions to the other "
        f"items, the log {usual:.0%}"
    )
    if rare <= max(limits.rare, usual):
        return [Sentence("good", f"{words}.")]
    advice = "do not trust policies that leave the items that the log shows often"
    return [Sentence("bad", f"{words}: {advice}.")]


def headline(sentences: list[Sentence]) -> str:
    """Return the verdict in one line."""
    levels = np.array([sentence.level for sentence in sentences])
    good, bad, unknown = (int((levels == level).sum()) for level in ("good", "bad", "unknown"))
    passed = f"{good} of {good + bad} checks passed"
    return passed + (f", {unknown} that the log cannot tell" if unknown else "")
