"""Make the pictures of the README and the documentation.

    python docs/make_pictures.py

writes docs/_static/: an episode as a GIF, and SVG files in a light and a dark version each: the
pipeline, what each responder reads, and quality against cost from docs/results/known_truth_50k.csv.
"""

from __future__ import annotations

import csv
from html import escape
from pathlib import Path

import gymnasium as gym
import matplotlib as mpl
import torch
from matplotlib.figure import Figure
from PIL import Image

from agents.oracle import OraclePolicy

HERE = Path(__file__).parent
OUT = HERE / "_static"
FONT = "font-family='system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif'"
COLOURS = {
    "light": {
        "text": "#1f2933", "soft": "#616e7c", "line": "#9aa5b1", "card": "#f5f7fa",
        "accent": "#c2410c", "accent_card": "#ffedd5", "item": "#bfdbfe", "item_line": "#3b82f6",
    },
    "dark": {
        "text": "#e4e7eb", "soft": "#9aa5b1", "line": "#7b8794", "card": "#27303b",
        "accent": "#fb923c", "accent_card": "#5a3116", "item": "#1e3a5f", "item_line": "#60a5fa",
    },
}  # fmt: skip


def write_svg(name: str, theme: str, size: tuple[float, float], title: str, body: str) -> None:
    """Write docs/_static/NAME-THEME.svg."""
    width, height = size
    (OUT / f"{name}-{theme}.svg").write_text(
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width:g} {height:g}' "
        f"width='{width:g}' height='{height:g}' role='img' {FONT}>"
        f"<title>{escape(title)}</title>\n{body}\n</svg>\n"
    )


def text(x: float, y: float, words: str, fill: str, size: float = 13, more: str = "") -> str:
    """Return a line of text, centred at x unless `more` says otherwise."""
    anchor = "" if "text-anchor" in more else "text-anchor='middle' "
    return (
        f"<text x='{x:g}' y='{y:g}' {anchor}font-size='{size:g}' fill='{fill}' {more}>"
        f"{escape(words)}</text>"
    )


def box(x: float, y: float, w: float, h: float, fill: str, line: str, more: str = "") -> str:
    """Return a rounded rectangle."""
    radius = min(6.0, h / 5)
    return (
        f"<rect x='{x:g}' y='{y:g}' width='{w:g}' height='{h:g}' rx='{radius:g}' fill='{fill}' "
        f"stroke='{line}' {more}/>"
    )


def arrow(path: str, colour: str) -> str:
    """Return an arrow along an SVG path; the document must define the marker `tip`."""
    return (
        f"<path d='{path}' fill='none' stroke='{colour}' stroke-width='1.6' "
        "marker-end='url(#tip)'/>"
    )


def tip(colour: str) -> str:
    """Return the marker `tip`, an arrowhead."""
    return (
        "<defs><marker id='tip' viewBox='0 0 8 8' refX='7' refY='4' markerWidth='7' "
        f"markerHeight='7' orient='auto'><path d='M0 0L8 4L0 8z' fill='{colour}'/></marker></defs>"
    )


def pipeline(theme: str) -> None:
    """Draw the way from raw logs to a leaderboard and back."""
    c = COLOURS[theme]
    stages = [
        ("raw logs", "files or a DataFrame", ""),
        ("SessionLog", "slates and clicks", "responders"),
        ("Responder", "a trained user model", "responders"),
        ("World", "a batch of users", "recsim_env"),
        ("Gymnasium", "make and make_vec", "recsim_env"),
        ("policies", "a leaderboard", "agents"),
    ]
    w, h, gap, top = 134, 62, 24, 26
    parts = [tip(c["line"])]
    for i, (name, what, package) in enumerate(stages):
        x = 6 + i * (w + gap)
        main = name in ("Responder", "World")
        parts += [
            box(x, top, w, h, c["accent_card" if main else "card"],
                c["accent" if main else "line"], "stroke-width='1.4'"),
            text(x + w / 2, top + 27, name, c["text"], 15, "font-weight='600'"),
            text(x + w / 2, top + 47, what, c["soft"], 11),
            text(x + w / 2, top - 9, package, c["soft"], 11, "font-style='italic'"),
        ]  # fmt: skip
        if i:
            parts.append(arrow(f"M{x - gap + 3} {top + h / 2}H{x - 3}", c["line"]))
    last, log = 6 + 5 * (w + gap) + w / 2, 6 + w + gap + w / 2
    low = top + h + 30
    parts += [
        arrow(f"M{last} {top + h + 2}V{low}H{log}V{top + h + 4}", c["line"]),
        text((last + log) / 2, low + 17, "every run of a policy is a log again", c["soft"], 12),
    ]
    size = 6 * w + 5 * gap + 12, low + 26
    write_svg("pipeline", theme, size, "From logs to policies", "".join(parts))


SLATES, POSITIONS, TARGET = 3, 5, (2, 3)
CLICKED = {(0, 1), (0, 4), (1, 2), (2, 0)}
"""The session that the pictures of responders show: three slates of five items, and its clicks."""

EARLIER = {(r, s) for r in range(2) for s in range(POSITIONS)}
ABOVE = {(2, s) for s in range(3)}
BELOW = {(2, 4)}
NOTHING: set[tuple[int, int]] = set()
READS = {
    "counting": [("item_ctr, pbm", NOTHING, NOTHING)],
    "chain": [("cascade, dcm, ubm", NOTHING, ABOVE), ("dbn, ccm", ABOVE, ABOVE)],
    "linear": [("mf, logistic_regression", EARLIER & CLICKED, EARLIER & CLICKED)],
    "recurrent": [
        ("slate_gru", ABOVE | (EARLIER & CLICKED), ABOVE | (EARLIER & CLICKED)),
        ("session_gru, hierarchical_gru", ABOVE | EARLIER, ABOVE | EARLIER),
    ],
    "slate_attention": [
        ("slate_transformer", ABOVE | BELOW | (EARLIER & CLICKED), EARLIER & CLICKED),
        ("transformer_gru", ABOVE | BELOW | EARLIER, EARLIER),
    ],
    "session_attention": [
        ("session_transformer", ABOVE | EARLIER, ABOVE | EARLIER),
        ("scot", EARLIER & CLICKED, EARLIER & CLICKED),
    ],
    "adversarial": [("adv_ncm", ABOVE | (EARLIER & CLICKED), ABOVE | (EARLIER & CLICKED))],
    "random_access": [("rancm", ABOVE | BELOW | (EARLIER & CLICKED), ABOVE | (EARLIER & CLICKED))],
}
"""By family: the responders, and the positions whose items and whose clicks they read."""


def reads(theme: str) -> None:
    """Draw what each responder reads to predict one click."""
    c = COLOURS[theme]
    cell, step, left = 34, 40, 66
    width = left + POSITIONS * step + 40
    for family, panels in READS.items():
        parts = []
        for i, (name, items, clicks) in enumerate(panels):
            x0 = i * (width + 14)
            bold = "font-weight='600' text-anchor='start'"
            parts.append(text(x0 + left, 20, name, c["text"], 13.5, bold))
            for r in range(SLATES):
                y = 34 + r * step
                label = "this slate" if r == SLATES - 1 else f"slate {r + 1}"
                right = "text-anchor='end'"
                parts.append(text(x0 + left - 9, y + 22, label, c["soft"], 11.5, right))
                parts += [
                    _cell(c, x0 + left + s * step, y, cell, (r, s), items, clicks)
                    for s in range(POSITIONS)
                ]
        bottom = 34 + SLATES * step + 6
        total = len(panels) * (width + 14) - 14
        parts += _key(c, left, bottom, len(panels) == 1)
        height = bottom + (64 if len(panels) == 1 else 24)
        title = f"What {family} responders read"
        write_svg(f"reads-{family}", theme, (max(total, 330), height), title, "".join(parts))


def _cell(
    c: dict[str, str],
    x: float,
    y: float,
    size: float,
    place: tuple[int, int],
    items: set[tuple[int, int]],
    clicks: set[tuple[int, int]],
) -> str:
    """Return one shown item: filled if it is read, with its click's mark if that is read."""
    if place == TARGET:
        return box(x, y, size, size, c["accent_card"], c["accent"], "stroke-width='2'") + text(
            x + size / 2, y + 22, "?", c["accent"], 16, "font-weight='700'"
        )
    read = place in items
    fill, line = (c["item"], c["item_line"]) if read else ("none", c["line"])
    dash = "" if read else "stroke-dasharray='2 3'"
    parts = box(x, y, size, size, fill, line, dash)
    if place in clicks:
        mark = c["accent"] if place in CLICKED else "none"
        parts += (
            f"<circle cx='{x + size / 2:g}' cy='{y + size / 2:g}' r='6' fill='{mark}' "
            f"stroke='{c['accent']}' stroke-width='1.4'/>"
        )
    return parts


def _key(c: dict[str, str], left: float, y: float, narrow: bool) -> list[str]:
    """Return the key below the panels."""
    words = [
        (box(0, 0, 14, 14, c["accent_card"], c["accent"]), "predicted"),
        (box(0, 0, 14, 14, c["item"], c["item_line"]), "item read"),
        (f"<circle cx='7' cy='7' r='6' fill='{c['accent']}'/>", "click read"),
        (f"<circle cx='7' cy='7' r='6' fill='none' stroke='{c['accent']}'/>", "no click, read"),
    ]
    parts = []
    for i, (mark, label) in enumerate(words):
        x = left + (i % 2 if narrow else i) * 110
        row = y + (i // 2 * 22 if narrow else 0)
        parts.append(f"<g transform='translate({x:g} {row:g})'>{mark}</g>")
        parts.append(text(x + 20, row + 12, label, c["soft"], 11.5, "text-anchor='start'"))
    return parts


def quality(theme: str) -> None:
    """Plot the gap closed against training seconds of the known-truth comparison."""
    c = COLOURS[theme]
    with (HERE / "results" / "known_truth_50k.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "recsim", "font.size": 10})
    mpl.rcParams["font.family"] = "sans-serif"
    figure = Figure(figsize=(7.2, 3.9))
    axes = figure.add_axes((0.09, 0.13, 0.88, 0.83))
    offsets = {
        "slate_gru": (4, -14), "scot": (-25, 6), "hierarchical_gru": (6, -14),
        "session_gru": (-8, 8), "pbm": (-8, 8), "logistic_regression": (8, 0), "ubm": (9, -7),
        "session_transformer": (-50, -16), "slate_transformer": (-40, -16),
    }  # fmt: skip
    for row in rows:
        try:
            share = float(row["gap closed"].removesuffix("%"))
            seconds = float(row["training (s, 1 core)"].replace(",", ""))
        except ValueError:  # a group of models, or no figure
            continue
        name = row["responder"]
        learned = name not in ("pbm", "item_ctr", "position_ctr", "ubm")
        axes.scatter(seconds, share, 42, c["item_line"] if learned else c["line"], zorder=3)
        axes.annotate(
            name, (seconds, share), offsets.get(name, (8, -3)), textcoords="offset points",
            color=c["text"], fontsize=9.5,
        )  # fmt: skip
    axes.axhline(100, color=c["accent"], linewidth=1, linestyle="--")
    axes.text(1640, 97, "Bayes optimum", color=c["accent"], ha="right", va="top", fontsize=9.5)
    axes.set(xlim=(-40, 1660), ylim=(-5, 107), xlabel="training, seconds on one core")
    axes.set_ylabel("gap closed, %")
    axes.grid(color=c["line"], alpha=0.25)
    axes.patch.set_alpha(0)
    figure.patch.set_alpha(0)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(c["line"])
    axes.tick_params(colors=c["soft"])
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(c["text"])
    figure.savefig(OUT / f"quality-{theme}.svg", metadata={"Date": None}, transparent=True)


def episode(steps: int = 14) -> None:
    """Record an episode of RecSim-ContentWise-v0 with the oracle; the users are synthetic."""
    env = gym.make("recsim_env:RecSim-ContentWise-v0", render_mode="rgb_array")
    world = env.unwrapped.vector.world  # type: ignore[attr-defined]
    policy = OraclePolicy(world)
    best: list[Image.Image] = []
    for seed in range(8):
        observation, _ = env.reset(seed=seed)
        policy.reset()
        frames, over = [], False
        while not over and len(frames) < steps:
            seen = {name: torch.from_numpy(value)[None] for name, value in observation.items()}
            observation, _, terminated, truncated, _ = env.step(policy.act(seen)[0].numpy())
            frames.append(Image.fromarray(env.render()))  # type: ignore[arg-type]
            over = terminated or truncated
        best = max(best, frames, key=len)
    small = [f.convert("P", palette=Image.Palette.ADAPTIVE, colors=48) for f in best]
    small[0].save(
        OUT / "episode.gif", save_all=True, append_images=small[1:], duration=900, loop=0,
        optimize=True,
    )  # fmt: skip


def main() -> None:
    """Make all pictures."""
    OUT.mkdir(exist_ok=True)
    for theme in COLOURS:
        pipeline(theme)
        reads(theme)
        quality(theme)
    episode()


if __name__ == "__main__":
    main()
