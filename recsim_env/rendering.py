"""Pictures of a simulated user: the last slate with probabilities and clicks, and the history."""

from __future__ import annotations

import numpy as np

from recsim_env.outcome import Outcome
from recsim_env.world import World

_SHADES = " ░▒▓█"
_WIDTH, _HEIGHT, _DPI = 10.0, 4.2, 80


def render_ansi(world: World, outcome: Outcome | None, user: int) -> str:
    """Return the slate as a table and the history as a strip of text, of user number `user`."""
    lines = [f"user {int(world.context[user])}  step {int(world.step_number[user])}"]
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
    clicks = world.history_click[user].sum(1).tolist()
    shown = (world.history_slate[user] >= 0).any(1).tolist()
    strip = "".join(
        _SHADES[min(n, len(_SHADES) - 1)] if seen else "·"
        for n, seen in zip(clicks, shown, strict=True)
    )
    lines.append(f"clicks, last {world.history} slates: [{strip}]")
    return "\n".join(lines)


def render_rgb(world: World, outcome: Outcome | None, user: int) -> np.ndarray:
    """Return the slate as cards and the history as a strip, [height, width, 3] uint8."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, _HEIGHT), dpi=_DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    cards, strip = figure.subplots(2, 1, height_ratios=[2, 1])
    title = f"user {int(world.context[user])}, slate {int(world.step_number[user])}"
    if outcome is not None:
        title += f", reward {_reward(outcome, user)}"
        probability = outcome.probability[user].cpu().numpy()
        click, item = outcome.click[user].cpu().numpy(), outcome.slate[user].cpu().numpy()
        colours = np.where(click, "#d9480f", "#4c78a8")
        place = np.arange(world.n_positions)
        cards.bar(place, probability, color=colours, width=0.85)
        names = [str(world.catalogue.ids[i]) if i >= 0 else "empty" for i in item]
        cards.set_xticks(place, names, rotation=30 if max(map(len, names)) > 5 else 0)
        for s in np.flatnonzero(click):
            cards.text(s, probability[s], "click", ha="center", va="bottom", color="#d9480f")
    cards.set(ylim=(0, 1), ylabel="P(click)", title=title, xlabel="item, from the top of the slate")
    clicks = world.history_click[user].cpu().numpy().astype(float)
    clicks[(world.history_slate[user] < 0).cpu().numpy()] = np.nan
    strip.imshow(clicks.T, aspect="auto", cmap="Oranges", vmin=0, vmax=1)
    strip.set(xlabel="slates, oldest to latest (dark = clicked)", ylabel="position", yticks=[])
    strip.set_xticks([])
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _reward(outcome: Outcome, user: int) -> str:
    return ", ".join(f"{value:.3g}" for value in outcome.reward[user].reshape(-1).tolist())
