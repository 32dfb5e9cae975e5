"""Rendering of a user: the last slate with probabilities and clicks, and the history."""

from __future__ import annotations

from typing import Any

import numpy as np

from recsim_env.outcome import Outcome
from recsim_env.world import World

_SHADES = " ░▒▓█"
_WIDTH, _DPI, _ROW = 10.0, 80, 10
_CLICKED = "#d9480f"


def render_ansi(world: World, outcome: Outcome | None, user: int) -> str:
    """Return user number `user` as text: the slate as a table and the history as a strip."""
    lines = [f"user {int(world.episodes.user[user])}  step {int(world.episodes.step[user])}"]
    if outcome is None:
        lines.append("(no slate shown yet)")
    else:
        lines.append(f"{'pos':>3} {'item':>12} {'P(click)':>9}  answer")
        ids = world.catalogue.ids
        slate, click = outcome.slate[user].tolist(), outcome.click[user].tolist()
        for s, (item, clicked) in enumerate(zip(slate, click, strict=True)):
            if item < 0:
                lines.append(f"{s + 1:>3} {'–':>12}")
                continue
            p = float(outcome.probability[user, s])
            lines.append(f"{s + 1:>3} {ids[item]!s:>12} {p:>9.3f}  {'CLICK' if clicked else ''}")
        lines.append(f"reward {_reward(outcome, user)}")
    clicks = world.episodes.clicks[user].sum(1).tolist()
    shown = (world.episodes.slates[user] >= 0).any(1).tolist()
    strip = "".join(
        _SHADES[min(n, len(_SHADES) - 1)] if seen else "·"
        for n, seen in zip(clicks, shown, strict=True)
    )
    lines.append(f"clicks, last {world.history} slates: [{strip}]")
    return "\n".join(lines)


def render_rgb(world: World, outcome: Outcome | None, user: int) -> np.ndarray:
    """Return user number `user` as an image [height, width, 3] uint8: slate and history."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = -(-world.n_positions // _ROW)
    figure = Figure(figsize=(_WIDTH, 1.75 * rows + 1.7), dpi=_DPI)
    canvas = FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        2, 1, height_ratios=[1.75 * rows, 1.0], left=0.05, right=0.98, top=0.9, bottom=0.1,
        hspace=0.22,
    )  # fmt: skip
    cards, strip = (figure.add_subplot(grid[i]) for i in (0, 1))
    title = f"user {int(world.episodes.user[user])}, slate {int(world.episodes.step[user])}"
    if outcome is not None:
        title += f", reward {_reward(outcome, user)}"
    figure.suptitle(title, fontsize=12)
    _draw_cards(cards, world, outcome, user, rows)
    clicks = world.episodes.clicks[user].cpu().numpy().astype(float)
    clicks[(world.episodes.slates[user] < 0).cpu().numpy()] = np.nan
    strip.set_facecolor("#f4f6f8")  # slates that were not shown yet
    strip.spines[:].set_visible(False)
    strip.imshow(clicks.T, aspect="auto", cmap="Oranges", vmin=-0.15, vmax=1)
    strip.set_xticks(np.arange(world.history + 1) - 0.5, minor=True)
    strip.grid(which="minor", axis="x", color="white", linewidth=2)
    strip.tick_params(which="both", length=0)
    strip.set(xticks=[], yticks=[], ylabel="position")
    strip.set_xlabel(f"the last {world.history} slates, oldest to latest; dark = clicked")
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _draw_cards(axes: Any, world: World, outcome: Outcome | None, user: int, rows: int) -> None:
    """Draw a card for each position: its item, click probability and response."""
    from matplotlib.patches import FancyBboxPatch, Rectangle

    columns = min(world.n_positions, _ROW)
    axes.set(xlim=(0, columns), ylim=(rows, 0))
    axes.axis("off")
    for s in range(world.n_positions):
        x, y = s % _ROW + 0.06, s // _ROW + 0.04
        item = -1 if outcome is None else int(outcome.slate[user, s])
        clicked = outcome is not None and bool(outcome.click[user, s])
        edge, face = (_CLICKED, "#fff1e6") if clicked else ("#9aa5b1", "#f7f9fb")
        style = "round,pad=0,rounding_size=0.06"
        axes.add_patch(
            FancyBboxPatch(
                (x, y), 0.88, 0.9, boxstyle=style, facecolor=face, edgecolor=edge,
                linewidth=2.5 if clicked else 1, linestyle="-" if item >= 0 else ":",
            )
        )  # fmt: skip
        axes.text(x + 0.07, y + 0.08, f"{s + 1}", va="top", fontsize=8, color="#66727f")
        if item < 0:
            axes.text(x + 0.44, y + 0.45, "empty", ha="center", fontsize=9, color="#9aa5b1")
            continue
        assert outcome is not None
        name = str(world.catalogue.ids[item])
        short = name if len(name) <= 9 else name[:8] + "…"
        axes.text(x + 0.44, y + 0.36, short, ha="center", va="center", fontsize=11)
        p = float(outcome.probability[user, s])
        axes.add_patch(Rectangle((x + 0.08, y + 0.76), 0.72, 0.06, facecolor="#dde3e9"))
        colour = _CLICKED if clicked else "#4c78a8"
        axes.add_patch(Rectangle((x + 0.08, y + 0.76), 0.72 * p, 0.06, facecolor=colour))
        axes.text(x + 0.44, y + 0.62, f"P = {p:.2f}", ha="center", va="center", fontsize=8)
        if clicked:
            axes.text(
                x + 0.82, y + 0.08, "click", ha="right", va="top", fontsize=9, color=_CLICKED,
                weight="bold",
            )  # fmt: skip


def _reward(outcome: Outcome, user: int) -> str:
    text = ", ".join(f"{value:.3g}" for value in outcome.reward[user].reshape(-1).tolist())
    return text + (" (the slate breaks a rule)" if bool(outcome.invalid[user]) else "")
