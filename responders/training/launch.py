"""Training in several processes of this machine."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from responders.errors import InputError, check_whole
from responders.log.session_log import SessionLog
from responders.training.checkpoint import Checkpoint, load_responder
from responders.training.fit import fit
from responders.training.processes import end_with_parent
from responders.training.trainer import Interrupted

RESTARTS = 3
"""How often all processes start again after one of them was lost."""


def fit_on_devices(
    devices: int,
    log: str | Path,
    name: str,
    out: str | Path,
    settings: Mapping[str, Any] | None = None,
    **options: Any,
) -> Checkpoint:
    """Call `responders.fit` in a process for each device, which train together.

    The loss is that of one process with the same `batch_size`, but for dropout and draws, which
    differ between processes. After the loss of a process all start again from the last save, up
    to three times.

    Args:
        devices: number of processes; each uses a GPU of its own, or without GPUs a share of the
            CPU threads.
        log: folder of the log.
        name: a key of `responders.RESPONDERS`.
        out: folder for the checkpoint, its card and the TensorBoard run.
        settings: of the responder and of `TrainConfig`, by field name.
        options: other arguments of `responders.fit`.

    Raises:
        InputError: as `responders.fit`, or there are fewer GPUs than `devices`.
        responders.training.trainer.Interrupted: stopped by a signal, ready to resume.
    """
    check_whole("devices", devices, 1)
    gpus = torch.cuda.device_count()
    if 0 < gpus < devices and options.get("device") != "cpu":
        raise InputError(f"devices = {devices}, but there are {gpus} GPUs: choose at most {gpus}")
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=devices, max_restarts=RESTARTS,
        rdzv_backend="c10d", rdzv_endpoint="localhost:0", run_id=uuid.uuid4().hex,
        start_method="spawn", monitor_interval=0.5,
    )  # fmt: skip
    threads = max(torch.get_num_threads() // devices, 1)
    try:
        errors = elastic_launch(config, _fit)(threads, log, name, out, settings, options)
    except SignalException as stop:
        raise Interrupted from stop
    if errors[0] is not None:
        raise InputError(errors[0])
    return load_responder(Path(out), SessionLog.load(log).catalogue)


def _fit(
    threads: int,
    log: str | Path,
    name: str,
    out: str | Path,
    settings: Mapping[str, Any] | None,
    options: Mapping[str, Any],
) -> str | None:
    """Train in one of the processes; return an error of the input, which no restart can change."""
    end_with_parent()
    torch.set_num_threads(threads)
    try:
        fit(SessionLog.load(log), name, out, settings, **options)
    except InputError as error:
        return str(error)
    return None
