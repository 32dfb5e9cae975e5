"""The harness of the benchmarks, and the benchmarks on tiny cases."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks.harness import PeakMemory, check_out, names_in, publish, time_calls
from benchmarks.reports.plots import Panel, plot_bars, plot_lines
from benchmarks.reports.tables import number, text
from benchmarks.speed import attention, kernels, throughput
from benchmarks.speed.limits import Limits
from responders import InputError


def test_calls_are_timed_in_turn() -> None:
    order: list[str] = []
    calls = [lambda: order.append("a"), lambda: order.append("b")]
    times = time_calls(calls, rounds=3, warmup=2)
    assert order == ["a", "b"] * 5
    assert [len(taken) for taken in times] == [3, 3]
    assert min(min(taken) for taken in times) > 0


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux")
def test_peak_memory_is_what_was_added() -> None:
    block = np.ones(200 << 17)  # 200 MiB that are freed before
    del block
    peak = PeakMemory()
    block = np.ones(100 << 17)
    del block
    assert 75 < peak.mb < 150  # a busy system may take pages away meanwhile


def test_publish_writes_csv_markdown_and_plot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"name": "a", "rate": 1234.5}, {"name": "b", "rate": None}]

    def plot(frame: pd.DataFrame, path: Path) -> None:
        plot_bars(path, "title", list(frame.name), [2.0, 1.0], "x", highlight=["a"], log=True)

    columns = {"case": text("name"), "rate": number("rate", 1, missing="none")}
    publish("table", "A title", columns, rows, caption="a note", out=tmp_path / "o", plot=plot)
    assert "1,234.5" in capsys.readouterr().out
    assert pd.read_csv(tmp_path / "o" / "table.csv").rate[0] == 1234.5
    written = (tmp_path / "o" / "table.md").read_text()
    assert "| a | 1,234.5 |\n| b | none |\n\na note" in written
    assert (tmp_path / "o" / "table.png").stat().st_size > 1000


def test_lines_are_drawn(tmp_path: Path) -> None:
    panel = Panel("x", "y", {"a": ([1, 10], [2.0, 3.0]), "b": ([1, 10], [3.0, np.nan])})
    plot_lines(tmp_path / "p.png", "title", [panel, Panel("x", "y", {})], 2, dashed=["b"])
    assert (tmp_path / "p.png").stat().st_size > 1000


def test_folders_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    check_out(tmp_path / "new" / "folder")
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match="choose another --out"):
            check_out(out)


def test_names_come_from_lists_and_texts() -> None:
    assert names_in("a, b,") == names_in(["a", "b "]) == ["a", "b"]


def test_an_epoch_is_measured() -> None:
    found = attention.epoch("session_gru", 8, 4, 4, "cpu")
    assert found["seconds"] > 0


def test_a_step_is_measured_and_constant_states_stay_small() -> None:
    short, long = (
        {row["responder"]: row for row in attention.step(positions, users=2)}
        for positions in (20, 200)
    )
    assert set(short) == set(attention.RESPONDERS)
    assert all(row["network_ms"] > 0 for row in short.values())
    assert all(row["step_ms"] > 0 for row in short.values())
    assert short["scot"]["share"] == 1
    for name in ("min_gru", "session_gru"):
        assert long[name]["state_kb"] == short[name]["state_kb"]
    for name in ("hstu", "session_transformer"):
        assert long[name]["state_kb"] > 3 * short[name]["state_kb"]


def test_a_loss_is_measured_against_its_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    here: Any = lambda function, cases, label: [(k, function(*v)) for k, v in cases.items()]  # noqa: E731
    monkeypatch.setattr(kernels, "run_cases", here)
    case = kernels.Case("tiny", 64, 200, 8, 16)
    rows = kernels.measure_all([case], "cpu", "float32", 1, Limits(1e9, 1e9))
    assert [row["way"] for row in rows] == kernels.ways("cpu")
    assert all(row["seconds"] > 0 and row["floor_share"] > 0 for row in rows)
    assert {row["case"] for row in rows} == {"tiny"}


def test_the_layers_of_an_environment_are_measured(tmp_path: Path) -> None:
    setting = throughput.Setting("pbm", users=4, positions=3, items=20)
    speed = throughput.measure(setting, 0.05, "cpu")
    assert min(speed.respond, speed.world, speed.environment) > 0
    assert 0 < speed.outside < 1
    assert torch.get_num_threads() > 0
