"""Evaluations and embeddings → PNG files that a registry page or a README can show."""

from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from numpy.typing import NDArray
from PIL import Image

from enclip.blobs import write_whole
from enclip.records import Floats

MAX_BYTES = 300_000
DPI = 110
INK, PALE, GRID = "#1f2933", "#9aa5b1", "#e4e7eb"
COLOURS = ("#2f6fde", "#e8833a", "#2f9e6e", "#b0479a", "#8d6cd9", "#c2543c")
MAP_ROWS = 1_000  # products on the map of clusters: more are a blur, and t-SNE takes minutes
THUMBNAILS = 90


def plot_epochs(
    path: Path, series: Mapping[str, Sequence[tuple[int, float]]], *, title: str = "mAP@10 by epoch"
) -> Path:
    """mAP@10 by epoch, one line per instance; epoch 0 is the untuned base.

    Args:
        series: label → (epoch, mAP@10) in any order.
    """
    figure, axes = _figure(7.2, 4.0)
    for number, (label, points) in enumerate(series.items()):
        ordered = sorted(points)
        best = max(ordered, key=lambda point: point[1], default=None)
        axes.plot(
            [epoch for epoch, _ in ordered],
            [value for _, value in ordered],
            marker="o",
            markersize=5,
            linewidth=2,
            color=COLOURS[number % len(COLOURS)],
            label=f"{label}: best {best[1]:.3f} after epoch {best[0]}" if best else label,
        )
    axes.set(xlabel="epoch", ylabel="mAP@10")
    axes.margins(y=0.15)
    axes.set_ylim(bottom=0)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_title(title, loc="left", color=INK, fontweight="bold")
    axes.legend(frameon=False, loc="lower right")
    return save_figure(figure, path)


def plot_categories(
    path: Path,
    ours: Mapping[str, float],
    theirs: Mapping[str, float] | None = None,
    *,
    num_queries: Mapping[str, int],
    names: tuple[str, str] = ("challenger", "champion"),
) -> Path:
    """mAP@10 by category, best first, as a dot; the other system's as a ring, a line between them.

    Args:
        ours, theirs: category → mAP@10; theirs may lack categories.
        num_queries: category → queries behind the value, printed beside its name.
    """
    categories = sorted(ours, key=lambda category: (ours[category], category))
    figure, axes = _figure(7.2, 1.3 + 0.3 * max(3, len(categories)))
    places = np.arange(len(categories))
    for place, category in zip(places, categories, strict=True):
        before = theirs.get(category) if theirs else None
        if before is not None:
            axes.plot([before, ours[category]], [place, place], color=PALE, linewidth=2, zorder=1)
    if theirs:
        known = [
            (theirs[category], place) for place, category in zip(places, categories, strict=True) if category in theirs
        ]
        axes.scatter(
            [value for value, _ in known],
            [place for _, place in known],
            s=46,
            facecolors="white",
            edgecolors=COLOURS[1],
            linewidths=1.8,
            zorder=2,
            label=names[1],
        )
    axes.scatter([ours[category] for category in categories], places, s=46, color=COLOURS[0], zorder=3, label=names[0])
    axes.set_yticks(places, [f"{category}  ({num_queries.get(category, 0)})" for category in categories])
    axes.set(
        xlabel="mAP@10 (number of queries beside the category)", xlim=(-0.02, 1.02), ylim=(-0.7, len(categories) - 0.3)
    )
    axes.set_title("mAP@10 by category", loc="left", color=INK, fontweight="bold")
    if theirs:
        axes.legend(frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1, 1))
    return save_figure(figure, path)


def plot_gains(
    path: Path,
    gains: Mapping[str, Sequence[tuple[float, float, float]]],
    *,
    kinds: Sequence[str],
    title: str,
) -> Path:
    """Differences of mAP@10 with their intervals, a row per system and a mark per kind of query.

    Args:
        gains: system → per kind its (mean, low, high).
    """
    figure, axes = _figure(8.0, 1.2 + 0.34 * max(1, len(gains)))
    axes.axvline(0, color=PALE, linewidth=1)
    for number, kind in enumerate(kinds):
        mean, low, high = (np.array([values[number][part] for values in gains.values()]) for part in range(3))
        place = np.arange(len(gains)) + 0.18 * (number - (len(kinds) - 1) / 2)
        errors = np.maximum(0, [mean - low, high - mean])
        axes.errorbar(mean, place, xerr=errors, fmt="o", markersize=5, color=COLOURS[number], label=kind)
    axes.set_yticks(np.arange(len(gains)), list(gains))
    axes.invert_yaxis()
    axes.set_xlabel("difference of mAP@10, 95% interval")
    axes.set_title(title, loc="left", color=INK, fontweight="bold")
    axes.legend(frameon=False)
    return save_figure(figure, path)


def plot_levels(path: Path, panels: Mapping[str, Mapping[str, Sequence[tuple[str, float]]]], *, title: str) -> Path:
    """mAP@10 by level, a panel per way and a line per system; panels share their height.

    Args:
        panels: way → system → (level, mAP@10) in order; the same levels for all systems of a panel.
    """
    figure = Figure(figsize=(1.4 + 3.2 * max(1, len(panels)), 3.8), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    for axes, (way, lines) in zip(
        figure.subplots(1, max(1, len(panels)), sharey=True, squeeze=False)[0], panels.items(), strict=False
    ):
        _plain(axes)
        for number, (label, points) in enumerate(lines.items()):
            axes.plot(
                [level for level, _ in points],
                [value for _, value in points],
                marker="o",
                markersize=5,
                linewidth=2,
                color=COLOURS[number % len(COLOURS)],
                label=label,
            )
        axes.set_xlabel(way)
        axes.set_ylim(bottom=0)
        axes.tick_params(axis="x", labelsize=8)
    figure.axes[0].set_ylabel("mAP@10")
    figure.axes[0].legend(frameon=False, loc="lower left", fontsize=8)
    figure.suptitle(title, x=0.01, ha="left", color=INK, fontweight="bold")
    return save_figure(figure, path)


def plot_clusters(
    path: Path,
    vector_NP: Floats,
    assignment_N: NDArray[np.int32],
    thumbnail: Callable[[int], NDArray[np.uint8] | None],
    *,
    seed: int = 0,
) -> Path:
    """The catalog in two dimensions (t-SNE, from a sample), coloured by cluster, with thumbnails.

    Args:
        vector_NP: projected embeddings of the products.
        assignment_N: their clusters.
        thumbnail: row → uint8 RGB picture, or None where there is none.
    """
    rows = np.arange(len(vector_NP))
    if len(rows) > MAP_ROWS:
        rows = np.sort(np.random.default_rng(seed).choice(rows, MAP_ROWS, replace=False))
    place_R2 = _in_two_dimensions(vector_NP[rows], seed)
    figure, axes = _figure(8.0, 8.0)
    colours = _cluster_colours(int(assignment_N.max()) + 1 if len(assignment_N) else 1)
    axes.scatter(place_R2[:, 0], place_R2[:, 1], s=14, c=colours[assignment_N[rows]], alpha=0.7, linewidths=0)
    for pick in _spread(place_R2, THUMBNAILS):
        pixels = thumbnail(int(rows[pick]))
        if pixels is not None:
            box = OffsetImage(pixels, zoom=30 / max(pixels.shape[:2]))
            edge = {"edgecolor": colours[assignment_N[rows[pick]]], "linewidth": 1.6, "boxstyle": "square,pad=0.05"}
            axes.add_artist(AnnotationBbox(box, place_R2[pick], frameon=True, pad=0.05, bboxprops=edge))
    axes.set_axis_off()
    num_clusters = len(np.unique(assignment_N))
    axes.set_title(f"{num_clusters} clusters of {len(vector_NP):,} products", loc="left", color=INK, fontweight="bold")
    return save_figure(figure, path)


def _in_two_dimensions(vector_RP: Floats, seed: int) -> NDArray[np.float64]:
    if len(vector_RP) < 4:  # t-SNE needs neighbours
        place_R2 = np.zeros((len(vector_RP), 2))
        place_R2[:, 0] = np.arange(len(vector_RP))
        return place_R2
    from sklearn.manifold import TSNE

    norm = np.maximum(np.linalg.norm(vector_RP, axis=1, keepdims=True), 1e-12)
    perplexity = min(30.0, (len(vector_RP) - 1) / 3)
    # Half of scikit-learn's iterations: on the public catalog the same picture, in 0.6 of the time.
    start = "pca" if vector_RP.shape[1] > 1 else "random"
    model = TSNE(perplexity=perplexity, init=start, max_iter=500, random_state=seed)
    place: NDArray[np.float64] = np.asarray(model.fit_transform(vector_RP / norm), float)
    return place


def _spread(place_R2: NDArray[np.float64], count: int) -> list[int]:
    """At most `count` points, one per cell of a square grid, so that thumbnails do not cover each other."""
    if not len(place_R2):
        return []
    side = int(np.ceil(np.sqrt(count * 1.6)))  # about four cells in ten hold no product
    low, high = place_R2.min(axis=0), place_R2.max(axis=0)
    cells = np.minimum((place_R2 - low) / np.maximum(high - low, 1e-9) * side, side - 1e-6)
    distance = np.linalg.norm(cells - np.floor(cells) - 0.5, axis=1)
    nearest: dict[tuple[int, int], int] = {}
    for row in np.argsort(distance, kind="stable"):
        nearest.setdefault((int(cells[row, 0]), int(cells[row, 1])), int(row))
    return list(nearest.values())[:count]


def _cluster_colours(count: int) -> NDArray[np.float64]:
    """RGB per cluster: hues by the golden ratio, so that neighbours in number differ."""
    from matplotlib.colors import hsv_to_rgb

    hue = (np.arange(count) * 0.618034) % 1
    colours: NDArray[np.float64] = hsv_to_rgb(np.stack([hue, np.full(count, 0.62), np.full(count, 0.82)], axis=1))
    return colours


def _figure(width: float, height: float):  # type: ignore[no-untyped-def]
    # Figures of our own: pyplot keeps global state, which threads of a server or a DAG would share.
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _plain(axes)
    return figure, axes


def _plain(axes) -> None:  # type: ignore[no-untyped-def]
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    axes.tick_params(colors=INK, length=0)


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a PNG below 300 kB: with fewer colours, then smaller, where it would be more."""
    drawn = BytesIO()
    figure.savefig(drawn, format="png")
    data = drawn.getvalue()
    image = Image.open(BytesIO(data)).convert("RGB")
    while len(data) > MAX_BYTES:
        reduced = BytesIO()
        image.quantize(128, dither=Image.Dither.NONE).save(reduced, format="png", optimize=True)
        data = reduced.getvalue()
        image = image.resize((image.width * 4 // 5, image.height * 4 // 5), Image.Resampling.LANCZOS)
    write_whole(path, data)
    return path
