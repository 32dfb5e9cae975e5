"""The table, the files and the chart of the suite of skills."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.reports.plots import plot_scores
from benchmarks.reports.tables import show_table
from responders.files import write_json


@dataclass(frozen=True)
class SkillScore:
    """What a policy reached in the world of a skill; all numbers are None if it could not run.

    Args:
        skill: its name.
        policy: its name.
        score: (reward − that of random slates) / (that of the reference − that of random slates),
            cut to 0 to 1.
        score_low: lower end of its 95 % interval, by bootstrap over seeds and users.
        score_high: upper end.
        reward: mean reward of a session.
        reward_low: lower end of its interval.
        reward_high: upper end.
        note: why it could not run.
    """

    skill: str
    policy: str
    score: float | None = None
    score_low: float | None = None
    score_high: float | None = None
    reward: float | None = None
    reward_low: float | None = None
    reward_high: float | None = None
    note: str = ""


def show(scores: Sequence[SkillScore]) -> None:
    """Print the scores: a row for each policy, a column for each skill."""
    skills, policies = _names(scores)
    cells = {(each.skill, each.policy): _cell(each) for each in scores}
    rows = [[policy, *(cells[skill, policy] for skill in skills)] for policy in policies]
    caption = (
        "0 = random slates, 1 = the reference; ± half of the 95 % interval; – = cannot run there"
    )
    show_table("suite: SYNTHETIC users", ["policy", *skills], rows, caption)


def _cell(score: SkillScore) -> str:
    if score.score is None or score.score_low is None or score.score_high is None:
        return "–"
    return f"{score.score:.2f} ±{(score.score_high - score.score_low) / 2:.2f}"


def _names(scores: Sequence[SkillScore]) -> tuple[list[str], list[str]]:
    """Return the skills and the policies, in order."""
    skills, policies = ([getattr(each, name) for each in scores] for name in ("skill", "policy"))
    return list(dict.fromkeys(skills)), list(dict.fromkeys(policies))


def write(scores: Sequence[SkillScore], out: Path, facts: dict[str, Any]) -> list[Path]:
    """Write suite.csv, suite.json and suite.png to the folder `out` and return the files."""
    files = [out / f"suite.{end}" for end in ("csv", "json", "png")]
    records = [asdict(each) for each in scores]
    pd.DataFrame(records).to_csv(files[0], index=False)
    write_json(files[1], {**facts, "scores": records})
    skills, policies = _names(scores)
    points: dict[str, list[Any]] = {policy: [] for policy in policies}
    for policy in policies:
        for each in (s for s in scores if s.policy == policy):
            missing = each.score is None
            points[policy].append(
                None if missing else (each.score, each.score_low, each.score_high)
            )
    plot_scores(files[2], "skills of policies – synthetic users", skills, points)
    return files
