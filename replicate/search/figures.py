"""The figures of a search: its progress, its points, all settings of all trials, and which settings matter."""

import warnings
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import matplotlib as mpl
import optuna
import seaborn as sns
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

from replicate.report.figures import save
from replicate.report.line_figures import STYLE, Picture, line_style
from replicate.report.text import count, display_name
from replicate.search.proposals import frozen
from replicate.search.space import Choices, Range
from replicate.search.spec import Search
from replicate.search.trials import Outcome
from replicate.store.files import write_atomically

BEST_SHARE = 0.25  # of the trials: a setting matters if these crowd together in it, by PED-ANOVA
FEWEST = 16  # trials, of which the best are 4
ACCURACY = "validation accuracy (%)"
COLOURS = "cividis"


def draw(search: Search, outcomes: Sequence[Outcome], folder: Path) -> list[Path]:
    """Draw a search's figures, each as PNG and as PDF, and write their captions to `captions.md`.

    Args:
        search: the search.
        outcomes: of its trials; at least one has an accuracy.
        folder: for the figures.

    Returns:
        The files.
    """
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        pictures = {
            "progress": progress(search, outcomes),
            "points": points(search, outcomes),
            "settings": settings(search, outcomes),
            "importance": importance(search, outcomes),
        }
        paths, captions = [], [f"# {search.name}: captions of the figures"]
        for name, picture in pictures.items():
            if picture is not None:
                title = f"{search.name}: {picture.title}"
                paths += save(picture.figure, title, [*picture.notes], folder / name)
                captions.append(f"**{name}.** {' '.join([f'{title}.', *picture.notes])}")
    return [*paths, write_atomically(folder / "captions.md", "\n\n".join(captions) + "\n")]


def progress(search: Search, outcomes: Sequence[Outcome]) -> Picture:
    """Draw the best accuracy so far against the iterations spent: at equal budget, the higher line is the better."""
    figure = Figure(figsize=(6.5, 3.8), layout="constrained")
    axes = figure.subplots()
    for row, method in enumerate(search.methods):
        if mine := [one for one in outcomes if one.method == method]:
            spent = [*accumulate(one.iterations for one in mine)]
            best = [*accumulate((one.accuracy or 0.0 for one in mine), max)]
            axes.step(spent, best, where="post", label=method, **line_style(row, markers=True))
    axes.set(xlabel="iterations of all trials so far", ylabel=f"best {ACCURACY}")
    axes.xaxis.set_major_formatter(EngFormatter())
    axes.legend(title="method")
    notes = ("The best accuracy so far, in the order of the trials; each marker is a trial.",)
    return Picture(figure, "progress", notes)


def points(search: Search, outcomes: Sequence[Outcome]) -> Picture | None:
    """Draw where the methods have looked, by the first two ranges of the space; None if it has fewer."""
    ranges = [(name, values) for name, values in search.space.items() if isinstance(values, Range)][:2]
    if len(ranges) < 2:
        return None
    (x, x_range), (y, y_range) = ranges
    figure = Figure(figsize=(3.2 * len(search.methods) + 1.2, 3.6), layout="constrained")
    norm = _norm(outcomes)
    row = figure.subplots(1, len(search.methods), sharex=True, sharey=True, squeeze=False)[0]
    for axes, method in zip(row, search.methods, strict=True):
        axes.set(title=method, xlabel=x, xscale=_scale(x_range), yscale=_scale(y_range))
        for axis, values in ((axes.xaxis, x_range), (axes.yaxis, y_range)):
            if values.log:  # our style has no formulas, such as those of powers of ten
                axis.set_major_formatter("{x:g}")
        for stage, marker in enumerate("o^sDv<>phX"[: len(search.stages)], start=1):
            mine = [one for one in outcomes if (one.method, one.stage) == (method, stage) and one.accuracy is not None]
            axes.scatter(
                [one.point[x] for one in mine],
                [one.point[y] for one in mine],
                c=[one.accuracy for one in mine],
                marker=marker,
                s=[14 if one.state == "pruned" else 36 for one in mine],
                **{"norm": norm, "cmap": COLOURS, "label": f"stage {stage}"},
            )
        first = [one.point for one in outcomes if (one.method, one.stage) == (method, 1)]
        sns.rugplot(x=[p[x] for p in first], y=[p[y] for p in first], ax=axes, height=0.03, color="0.3", linewidth=0.7)
    row[0].set_ylabel(y)
    if len(search.stages) > 1:
        row[-1].legend(loc="best", fontsize=7)
    figure.colorbar(ScalarMappable(norm, COLOURS), ax=[*row], label=ACCURACY)
    notes = (
        "Small points were pruned. The strokes at the edges are the values of the first stage: a grid tries few "
        "different values of each setting, a random search as many as it has trials.",
    )
    return Picture(figure, "where the methods have looked", notes)


def settings(search: Search, outcomes: Sequence[Outcome]) -> Picture:
    """Draw each trial as a line through its settings (parallel coordinates)."""
    names = [*search.space]
    figure = Figure(figsize=(1.5 * len(names) + 2.5, 4.0), layout="constrained")
    axes, norm = figure.subplots(), _norm(outcomes)
    colours = mpl.colormaps[COLOURS]
    found = sorted((one for one in outcomes if one.accuracy is not None), key=lambda one: one.accuracy or 0.0)
    for one in found:
        heights = [_height(search.space[name], one.point[name]) for name in names]
        height = float(norm(one.accuracy or 0.0))
        faint = 0.35 if one.state == "pruned" else 0.9
        axes.plot([*heights, height], color=colours(height), alpha=faint, linewidth=1.2)
    axes.set(xlim=(-0.2, len(names) + 0.2), ylim=(-0.06, 1.06), yticks=[])
    axes.set_xticks(range(len(names) + 1), [*names, "accuracy"])
    axes.grid(visible=False)
    sns.despine(ax=axes, left=True, bottom=True)
    for place, name in enumerate(names):
        _mark(axes, place, search.space[name])
        axes.axvline(place, color="0.5", linewidth=0.8)
    axes.axvline(len(names), color="0.5", linewidth=0.8)
    figure.colorbar(ScalarMappable(norm, COLOURS), ax=axes, label=ACCURACY)
    notes = ("Each line is a trial, the best on top; those that were pruned are faint.",)
    return Picture(figure, f"settings of {count(len(found), 'trial')}", notes)


def importance(search: Search, outcomes: Sequence[Outcome]) -> Picture | None:
    """Draw how much each setting matters, by PED-ANOVA; None if too few trials tell.

    The trials of the first stage count that were spread evenly over the space: those of a grid and of random search.
    """
    even = [one for one in outcomes if one.stage == 1 and one.method != "tpe" and one.accuracy is not None]
    if len(even) < FEWEST or len({one.accuracy for one in even}) < FEWEST / 4:
        return None
    study = optuna.create_study(direction="maximize")
    study.add_trials(frozen(search.space, one.point, {0: one.accuracy or 0.0}, pruned=False) for one in even)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        evaluator = PedAnovaImportanceEvaluator(target_quantile=BEST_SHARE, evaluate_on_local=False)
        shares = get_param_importances(study, evaluator=evaluator)
    figure = Figure(figsize=(5.5, 0.45 * len(shares) + 1.3), layout="constrained")
    axes = figure.subplots()
    sns.barplot(x=[*shares.values()], y=[*shares], ax=axes, color=sns.color_palette("colorblind")[0])
    axes.set(xlabel="importance (they add up to 1)", ylabel="")
    axes.grid(visible=True, axis="x")
    notes = (
        f"PED-ANOVA: how much the best quarter of {count(len(even), 'trial')} of the grid and of random search in the "
        "first stage crowd together, by each setting. Settings that make no difference add up to 1 as well.",
    )
    return Picture(figure, "which settings matter", notes)


def _scale(values: Range) -> str:
    return "log" if values.log else "linear"


def _norm(outcomes: Sequence[Outcome]) -> Normalize:
    found = [one.accuracy for one in outcomes if one.accuracy is not None]
    return Normalize(min(found), max(*found, min(found) + 0.01))


def _height(values: Range | Choices, value: float) -> float:
    """Where a value is on its axis, from 0 to 1."""
    return values.share(value) if isinstance(values, Range) else _place(values, values.index(value))


def _place(values: Choices, index: int) -> float:
    return index / (len(values) - 1) if len(values) > 1 else 0.5


def _mark(axes: mpl.axes.Axes, place: int, values: Range | Choices) -> None:
    """Write the ends of a range, or all choices, next to their axis."""
    if isinstance(values, Range):
        marks = [(0.0, f"{values.low:g}"), (1.0, f"{values.high:g}")]
    else:
        marks = [(_place(values, index), display_name(value)) for index, value in enumerate(values)]
    for height, text in marks:
        axes.text(place + 0.04, height, text, fontsize=8, va="center", bbox={"facecolor": "white", "lw": 0, "pad": 1})
