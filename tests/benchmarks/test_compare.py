"""recsim compare: runs in processes of their own, resumed, and one table."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.reports import compare as report
from benchmarks.reports.published import PUBLISHED, published_for
from benchmarks.studies import compare as comparison
from benchmarks.studies.runs import RESULT, Run, load_predictions
from responders import InputError, SessionLog
from responders.evaluation.metrics import evaluate
from responders.models.registry import RESPONDERS
from tests.conftest import call_recsim

GRU = "slate_gru:readout=sample"


def words(log: Path, out: Path) -> list[str]:
    return [
        "compare", str(log), "--responders", f"position_ctr,{GRU}", "--seeds", "1",
        "--set", "epochs=1", "--set", "hidden_size=8", "--out", str(out), "--jobs", "2",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def compared(small_log_path: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a comparison and what it printed."""
    out = tmp_path_factory.mktemp("compare")
    done = call_recsim(*words(small_log_path, out))
    assert done.code == 0, done.err
    return out, done.out


def test_compare_trains_tests_and_reports(compared: tuple[Path, str]) -> None:
    out, printed = compared
    for text in ("split by user", "split by time", "Bayes optimum", "slate_gru:readout=sample"):
        assert text in printed
    table = pd.read_csv(out / "compare.csv")
    assert set(zip(table.split, table.responder, strict=True)) == {
        (split, name)
        for split in ("user", "time")
        for name in ("position_ctr", GRU, "Bayes optimum")
    }
    rows = table.set_index(["split", "responder"])
    for split in ("user", "time"):
        here = rows.loc[split]
        assert here.log_loss.idxmin() == "Bayes optimum"
        gru = here.loc[GRU]
        assert gru.auc_low < gru.auc < gru.auc_high
        for name in ("parameters", "train_seconds", "peak_mb", "ms_per_slate"):
            assert gru[name] > 0, name
        assert gru.unconditional_log_loss != gru.log_loss  # it reads the clicks above
        assert here.loc["position_ctr"].unconditional_auc == here.loc["position_ctr"].auc
    facts = json.loads((out / "compare.json").read_text())
    assert facts["synthetic"] is True
    assert "published" not in (out / "compare.md").read_text()
    assert (out / "compare.png").stat().st_size > 10_000


def test_compare_continues_where_it_stopped(
    compared: tuple[Path, str], small_log_path: Path
) -> None:
    out, _ = compared
    result = out / "user-slate_gru-readout=sample-learned-0" / RESULT
    before = result.stat().st_mtime_ns
    lost = out / "time-position_ctr-0" / RESULT
    lost.unlink()
    assert call_recsim(*words(small_log_path, out)).code == 0
    assert lost.exists()
    assert result.stat().st_mtime_ns == before


def test_compare_refuses_results_of_other_settings(
    compared: tuple[Path, str], small_log_path: Path
) -> None:
    line = words(small_log_path, compared[0])
    done = call_recsim(*(word.replace("hidden_size=8", "hidden_size=12") for word in line))
    assert done.code == 1
    assert "was made with settings" in done.err


def test_compare_spares_a_folder_of_other_files(small_log_path: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    done = call_recsim(*words(small_log_path, tmp_path))
    assert done.code == 1
    assert "is not empty and holds no comparison" in done.err
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def other_arrays(path: Path) -> None:
    np.savez(path, click=np.zeros(3, bool))


def pickled(path: Path) -> None:
    np.savez(path, **dict.fromkeys(("click", "position", "user"), np.array([{}], object)))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        (RESULT, lambda path: path.write_text("")),
        (RESULT, lambda path: path.write_text("[1]")),
        (RESULT, lambda path: path.write_text(path.read_text()[:-20])),
        (RESULT, lambda path: path.write_text(path.read_text().replace('"auc"', '"aucc"'))),
        (RESULT, lambda path: path.write_text(path.read_text().replace('"auc": 0', '"auc": "0"'))),
        ("predictions.npz", lambda path: path.unlink()),
        ("predictions.npz", lambda path: path.write_bytes(b"")),
        ("predictions.npz", lambda path: path.write_bytes(path.read_bytes()[:-200])),
        ("predictions.npz", other_arrays),
        ("predictions.npz", pickled),
    ],
)
def test_damaged_results_are_one_error(
    name: str,
    damage: Callable[[Path], None],
    compared: tuple[Path, str],
    small_log_path: Path,
    tmp_path: Path,
) -> None:
    out = tmp_path / "o"
    shutil.copytree(compared[0], out)
    damage(out / "user-position_ctr-0" / name)
    done = call_recsim(*words(small_log_path, out))
    assert done.code == 1
    assert f"user-position_ctr-0/{name}" in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--responders": "slat_gru"}, "did you mean slate_gru"),
        ({"--responders": "slate_gru:readout=loud"}, "readout 'loud' is unknown"),
        ({"--responders": "slate_gru:read=soft"}, "setting 'read' is unknown to slate_gru"),
        ({"--embeddings": "neural"}, "embedding 'neural' is unknown"),
        ({"--split": "space"}, "split 'space' is unknown"),
        ({"--set": "hiden_size=8"}, "setting 'hiden_size' is unknown"),
        ({"--set": "hidden_size=x"}, "hidden_size must be a whole number"),
    ],
)
def test_bad_input_is_reported_before_any_run(
    change: dict[str, str],
    message: str,
    small_log_path: Path,
    tmp_path: Path,
) -> None:
    options = {"--responders": "slate_gru", "--out": str(tmp_path / "o")} | change
    line = ["compare", str(small_log_path), *(w for pair in options.items() for w in pair)]
    done = call_recsim(*line)
    assert done.code == 1
    assert message in done.err
    assert not (tmp_path / "o").exists()


def test_intervals_are_of_the_mean_over_seeds_and_paired(
    compared: tuple[Path, str], small_log: SessionLog
) -> None:
    """One seed: the interval of the report is about that of `evaluate`; the best has no gap."""
    out, _ = compared
    runs = [Run("position_ctr", "", "user", 0), Run(GRU, "learned", "user", 0)]
    results = [(run, json.loads((out / run.folder / RESULT).read_text())) for run in runs]
    table = report.summarise(small_log, results, out).set_index("responder")
    conditional, _ = load_predictions(out, runs[1])
    found = evaluate(conditional, 0.5)
    for end in ("_low", "_high"):
        assert table.loc[GRU][f"auc{end}"] == pytest.approx(found[f"auc{end}"], abs=0.02)
    learned = table.drop("Bayes optimum")
    best = learned.log_loss.idxmin()
    assert learned.log_loss_above_best[best] == learned.log_loss_above_best_high[best] == 0


def test_published_figures_are_shown_for_real_logs_only(small_log: SessionLog) -> None:
    def called(name: str, synthetic: bool) -> SessionLog:
        return replace(small_log, card={"name": name, "synthetic": synthetic})

    assert published_for(called("contentwise", False))["slate_gru"] == (0.744, 0.331, 0.860)
    assert published_for(called("rl4rs-b-sl", False))["scot"] == (0.934, 0.896, 0.865)
    assert not published_for(called("contentwise", True))
    assert not published_for(called("trec-session", False))
    names = {name.split(":")[0] for rows in PUBLISHED.values() for name in rows}
    assert names <= RESPONDERS.keys()


def test_the_plan_is_seed_by_seed_and_leaves_out_what_cannot_run(small_log: SessionLog) -> None:
    runs = comparison.plan(["pbm", "mf"], ["learned", "svd"], ["user", "time"], 2, small_log)
    assert len(runs) == len(set(runs)) == 2 * 2 * 3
    assert [run.seed for run in runs] == [0] * 6 + [1] * 6
    short = small_log.select(np.arange(50), first_slates=1)
    assert {r.responder for r in comparison.plan(["pbm", "mf"], ["svd"], ["user"], 1, short)} == {
        "pbm"
    }
    with pytest.raises(InputError, match="nothing to compare"):
        comparison.plan(["mf"], ["svd"], ["user"], 1, short)
