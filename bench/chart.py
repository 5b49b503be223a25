# -*- coding: utf-8 -*-
"""The chart of a run: a panel for each work, a bar for each server."""
from __future__ import division, print_function

import matplotlib

matplotlib.use("svg")                       # no screen is needed
matplotlib.rcParams["svg.hashsalt"] = "lavka"       # the same figures give the same file

import matplotlib.pyplot as plt             # noqa: E402

LAVKA, OTHERS = "#c0392b", "#95a5a6"


def draw(path, panels):
    """Write an SVG file. `panels` are (title, unit, [(name of a server, figure)]), two in a row."""
    rows = (len(panels) + 1) // 2
    tallest = max(len(bars) for _, _, bars in panels)       # a run without a rate has no chart
    figure, axes = plt.subplots(rows, 2, figsize=(10, rows * (0.6 + 0.26 * tallest)), squeeze=False)
    axes = [axis for row in axes for axis in row]
    for axis, (title, unit, bars) in zip(axes, panels):
        bars = sorted(bars, key=lambda bar: bar[1])
        names, figures = [name for name, _ in bars], [value for _, value in bars]
        colours = [LAVKA if name == "Lavka" else OTHERS for name in names]
        drawn = axis.barh(names, figures, color=colours)
        axis.bar_label(drawn, ["{:,.0f}".format(value) for value in figures], padding=3, fontsize=8)
        axis.set_title("%s (%s)" % (title, unit), fontsize=10, loc="left")
        axis.margins(x=0.18)
        axis.tick_params(axis="y", length=0, labelsize=8)
        axis.xaxis.set_visible(False)
        for side in ("top", "right", "bottom"):
            axis.spines[side].set_visible(False)
    for axis in axes[len(panels):]:
        axis.set_visible(False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
