"""Our click models against CLAX's (Hager et al., 2025) on the same log, splits and positions.

    pip install -c constraints.txt -e '.[peers]'
    python -m benchmarks.peers.click_models LOG --out runs/click-models

CLAX (`clax-models`, JAX) is trained by its own trainer with AdamW, at the better of two learning
rates on the validation part. Everything else is as in `recsim compare`: one table of conditional
and unconditional log-loss, perplexity and AUC, with intervals, and seconds.
"""

from __future__ import annotations

import contextlib
import io
import logging
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from benchmarks.harness import PeakMemory, names_in, run_script
from benchmarks.reports import compare as report
from benchmarks.studies import compare as study
from benchmarks.studies.runs import RESULT, Run, load_result, save_result
from benchmarks.workers import Workers
from responders import InputError, SessionLog
from responders.evaluation.metrics import best_threshold, log_loss
from responders.evaluation.predict import Predictions
from responders.evaluation.report import report_of
from responders.log.batch import Part
from responders.log.split import make_split
from responders.models.counting import log_odds
from responders.progress import progress_bar

CLAX = {
    "clax_pbm": "PositionBasedModel",
    "clax_cascade": "CascadeModel",
    "clax_dcm": "DependentClickModel",
    "clax_ubm": "UserBrowsingModel",
    "clax_dbn": "DynamicBayesianNetwork",
    "clax_ccm": "ClickChainModel",
}
"""CLAX's models by our names for them."""

_RATES = (0.003, 0.03)
_BATCH = 256
_Batch = dict[str, np.ndarray]


class _Slates:
    """The counted slates of a part in CLAX's format: batches of equal size, the last one padded."""

    def __init__(self, log: SessionLog, part: Part, rng: np.random.Generator | None = None) -> None:
        start = log.session_start[part.sessions]
        spans = zip(start + part.first, start + part.end, strict=True)
        self.rows = np.concatenate([np.arange(a, b) for a, b in spans])
        self.slate, self.click, self.rng = log.slate[self.rows], log.response[self.rows], rng

    def __len__(self) -> int:
        return -(-len(self.rows) // _BATCH)

    def __iter__(self) -> Iterator[_Batch]:
        order = np.arange(len(self.rows))
        if self.rng is not None:
            order = self.rng.permutation(order)
        for i in range(0, len(order), _BATCH):
            yield self._batch(order[i : i + _BATCH])

    def _batch(self, index: np.ndarray) -> _Batch:
        pad = ((0, _BATCH - len(index)), (0, 0))
        slate = np.pad(self.slate[index], pad, constant_values=-1)
        click = np.pad(self.click[index], pad)
        position = np.broadcast_to(np.arange(1, slate.shape[1] + 1), slate.shape)
        return {
            "positions": position.astype(np.int32),
            "query_doc_ids": np.maximum(slate, 0).astype(np.int32),
            "clicks": click.astype(np.float32),
            "mask": slate >= 0,
        }


def _predict(model: Any, log: SessionLog, part: Part, method: str) -> Predictions:
    """Return predictions of a CLAX model by `method`: predict_(conditional_)clicks."""
    slates = _Slates(log, part)
    log_p = [np.asarray(getattr(model, method)(batch)) for batch in slates]
    p = torch.from_numpy(np.concatenate(log_p)[: len(slates.rows)].astype(np.float64))
    logit = log_odds(p.clamp(max=-1e-7)).clamp(-30, 30).numpy()
    row, position = np.nonzero(slates.slate >= 0)
    session = np.searchsorted(log.session_start, slates.rows[row], "right") - 1
    return Predictions(
        logit[row, position],
        slates.click[row, position] > 0,
        position,
        log.user[session].astype(np.int64),
        session,
        slates.slate[row, position].astype(np.int64),
    )


def run_clax(log: SessionLog, run: Run, out: Path) -> dict[str, Any]:
    """Train and test one of CLAX's models; write the same files as `benchmarks.studies.runs`.

    Args:
        log: the log.
        run: its `responder` is a key of `CLAX`.
        out: folder of the run; a finished run in it is kept.
    """
    if (out / RESULT).exists():
        return load_result(out / RESULT)
    import clax
    from flax import nnx
    from flax.training.early_stopping import EarlyStopping
    from optax import adamw

    parts, peak = make_split(log, run.split, run.seed), PeakMemory()
    candidates = []
    for rate in _RATES:
        began = time.perf_counter()
        sizes = {"query_doc_pairs": len(log.catalogue), "positions": log.n_positions + 1}
        kind = getattr(clax, CLAX[run.responder])
        names = kind.__init__.__annotations__
        model = kind(**{k: v for k, v in sizes.items() if k in names}, rngs=nnx.Rngs(run.seed))
        trainer = clax.Trainer(adamw(rate), 50, EarlyStopping(patience=3, min_delta=1e-5))
        with contextlib.redirect_stdout(io.StringIO()):
            rng = np.random.default_rng(run.seed)
            trainer.train(
                model, _Slates(log, parts["train"], rng), _Slates(log, parts["validation"])
            )
        seconds = time.perf_counter() - began
        chosen = _predict(model, log, parts["validation"], "predict_conditional_clicks")
        candidates.append((log_loss(chosen.logit, chosen.click), seconds, model, chosen))
    _, seconds, model, chosen = min(candidates, key=lambda each: each[0])
    conditional, unconditional = (
        _predict(model, log, parts["test"], method)
        for method in ("predict_conditional_clicks", "predict_clicks")
    )
    facts = {
        "settings": {},
        "parameters": sum(x.size for x in _leaves(nnx.state(model))),
        "train_seconds": seconds,
        "epochs": 0,
        "peak_mb": peak.mb,
        "ms_per_slate": None,
    }
    threshold = best_threshold(chosen)
    return save_result(out, facts, report_of(conditional, unconditional, threshold, resamples=0))


def _leaves(state: Any) -> list[Any]:
    import jax

    return [x for x in jax.tree.leaves(state) if hasattr(x, "size")]


def main(
    log: Annotated[Path, typer.Argument(metavar="LOG", help="Folder of a session log.")],
    responders: Annotated[
        str, typer.Option(help="Our responders; comma-separated, or all.")
    ] = "position_ctr,pbm,cascade,dcm,ubm,dbn,ccm,slate_gru,session_gru,scot",
    peers: Annotated[str, typer.Option(help="CLAX's models; comma-separated.")] = ",".join(CLAX),
    seeds: Annotated[
        int, typer.Option(min=1, help="Repetitions, each with its own user split.")
    ] = 3,
    split: Annotated[str, typer.Option(help="user or time.")] = "user",
    out: Annotated[Path, typer.Option(help="Folder for runs, tables and plot.")] = Path(
        "runs/click-models"
    ),
    jobs: Annotated[int, typer.Option(min=1, help="Our runs at a time.")] = 1,
) -> None:
    """Compare our click models with CLAX's on one log."""
    try:
        import clax  # noqa: F401
    except ImportError:
        raise InputError(
            "CLAX is not installed: pip install -c constraints.txt -e '.[peers]'"
        ) from None
    logging.getLogger("jax").setLevel(logging.ERROR)
    logged = SessionLog.load(log)
    ours = study.responder_names(responders)
    runs = study.plan(ours, ["learned"], [split], seeds, logged)
    results = dict(study.run_all(log, runs, out, {}, workers=Workers(jobs)))
    theirs = [Run(name, "", split, seed) for seed in range(seeds) for name in names_in(peers)]
    for run in progress_bar(theirs, desc="CLAX", unit="run"):
        results[run] = run_clax(logged, run, out / run.folder)
    in_order = [(run, results[run]) for run in (*runs, *theirs)]
    table = report.summarise(logged, in_order, out)
    report.show(table, logged)
    command = shlex.join(["python", "-m", "benchmarks.peers.click_models", *sys.argv[1:]])
    for path in report.write(table, logged, out, report.facts_of(runs, command, logged)):
        typer.echo(f"wrote {path}")


if __name__ == "__main__":
    run_script(main)
