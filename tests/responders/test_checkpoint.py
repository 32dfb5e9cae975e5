"""Trained responders on disk."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from responders import Catalogue, InputError, SessionLog
from responders.training.checkpoint import load_responder


def test_the_card_tells_what_made_the_responder(trained: Path, small_log: SessionLog) -> None:
    card = json.loads((trained / "card.json").read_text())
    assert card["synthetic"] is True
    assert card["responder"]["name"] == "session_gru"
    assert card["responder"]["options"]["hidden_size"] == 16
    assert card["data"]["fingerprint"] == small_log.fingerprint()
    assert card["metrics"]["n_sessions"] == 60
    assert {"torch", "recsim-env", "python"} <= card["versions"].keys()
    assert {p.name for p in trained.iterdir()} >= {"responder.safetensors", "initial_sessions"}
    assert not (trained / "resume.safetensors").exists()
    assert any((trained / "tensorboard").iterdir())


def copy(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))


def test_damaged_checkpoints_are_named(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no responder at"):
        load_responder(tmp_path / "nowhere")
    broken = copy(trained, tmp_path / "truncated")
    weights = broken / "responder.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"responder\.safetensors cannot be read .* damaged"):
        load_responder(broken)
    weights.unlink()
    with pytest.raises(InputError, match="is missing: the checkpoint is incomplete"):
        load_responder(broken)
    broken = copy(trained, tmp_path / "card")
    (broken / "card.json").write_text("{}")
    with pytest.raises(InputError, match="not a responder of format"):
        load_responder(broken)
    (broken / "card.json").unlink()
    with pytest.raises(InputError, match=r"is not a responder: it has no card\.json"):
        load_responder(broken)
    (broken / "resume.safetensors").touch()
    with pytest.raises(InputError, match=r"is not finished: continue it with .*--resume"):
        load_responder(broken)


def test_weights_that_are_not_numbers_are_refused(trained: Path, tmp_path: Path) -> None:
    broken = copy(trained, tmp_path / "nan")
    weights = load_file(broken / "responder.safetensors")
    weights["readout.out.bias"].fill_(torch.nan)
    save_file(weights, broken / "responder.safetensors")
    with pytest.raises(InputError, match=r"NaN or infinite weights in readout\.out\.bias"):
        load_responder(broken)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("readout.out.bias", lambda w: w.to(torch.complex64), "is torch.complex64, not"),
        ("readout.out.bias", lambda w: w.long(), "is torch.int64, not"),
        ("items.row_of_item", lambda w: w + 10**9, "an index in items.row_of_item is beyond"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    name: str, change: Any, message: str, trained: Path, tmp_path: Path
) -> None:
    broken = copy(trained, tmp_path / "broken")
    weights = load_file(broken / "responder.safetensors")
    weights[name] = change(weights[name])
    save_file(weights, broken / "responder.safetensors")
    with pytest.raises(InputError, match=message):
        load_responder(broken)


@pytest.mark.parametrize(
    ("field", "value"),
    [("threshold", np.nan), ("threshold", -0.5), ("catalogue", {"items": 1})],
)
def test_figures_of_a_card_that_cannot_be_are_refused(
    field: str, value: Any, trained: Path, tmp_path: Path
) -> None:
    broken = copy(trained, tmp_path / "broken")
    card = json.loads((broken / "card.json").read_text())
    card[field] = card[field] | value if isinstance(value, dict) else value
    (broken / "card.json").write_text(json.dumps(card))
    with pytest.raises(InputError):
        load_responder(broken)


def test_counts_of_items_that_are_no_counts_are_refused(trained: Path, tmp_path: Path) -> None:
    broken = copy(trained, tmp_path / "broken")
    table = broken / "initial_sessions" / "catalogue.parquet"
    frame = pq.read_table(table)
    at = frame.schema.get_field_index("attribute:shown")
    for values in (["x"] * len(frame), np.full(len(frame), -1)):
        pq.write_table(frame.set_column(at, "attribute:shown", pa.array(values)), table)
        with pytest.raises(InputError, match="shown of an item is no count"):
            load_responder(broken)


def test_a_checkpoint_answers_its_catalogue_and_what_extends_it(
    trained: Path, small_log: SessionLog
) -> None:
    own = small_log.catalogue
    longer = own.extended([1000, 1001])
    assert load_responder(trained, longer).responder.shape.n_items == len(own) + 2
    for other in (Catalogue(own.ids[:-1]), Catalogue(own.ids[::-1]), Catalogue(own.ids + 1)):
        with pytest.raises(InputError, match="was trained on another catalogue"):
            load_responder(trained, other)


def test_nothing_of_a_trained_responder_is_pickled(trained: Path) -> None:
    for path in trained.rglob("*"):
        if path.is_file() and "tensorboard" not in path.parts:
            head = path.read_bytes()[:4]
            assert not head.startswith((b"\x80", b"PK")), path  # pickle, torch.save
