# -*- coding: utf-8 -*-
"""What a run is told as: tables in Markdown, the goals, the figures for the chart."""
from __future__ import division, print_function

import os
import platform
import re
import shutil
import sqlite3
import subprocess
from statistics import median

import load
from servers import NAMES, PYTHON_PEERS, SERVERS, SHARING, pgcluster
from works import SLOW_SECONDS, WORKS

CHART = ["ping", "ping16", "trade50", "trade500", "new", "returning"]
LIMITING = 0.85             # part of the time; a load that computes longer may be the limit


def middle(results, field):
    return median(getattr(result, field) for result in results)


def ratio(results, others):
    """Of the rates of two servers, by rounds; None where one of them was not measured."""
    if not results or not others:
        return None
    return median(one.rate / other.rate for one, other in zip(results, others))


def tables(names, works, results, failures):
    """The tables that have something to tell; each is a list of lines of Markdown."""
    alone = [name for name in names if name not in SHARING]
    shared = [name for name in names if name in SHARING]
    parts = [table(alone, works, results, failures)] if alone else []
    if shared:
        parts.append(sharing_table(shared, works, results, failures))
    if ("ticks", "timed") in results:
        parts.append(slow_ticks(results["ticks", "timed"]))
    parts += [footnote(results), goal_table(results)]
    return [lines for lines in map(list, parts) if lines]


def table(names, works, results, failures):
    """Lines of Markdown."""
    yield ("| work | server | per second | p50 ms | p99 ms | p99.9 ms | Lavka : it | server µs "
           "| load busy |")
    yield "|---|---|--:|--:|--:|--:|--:|--:|--:|"

    def cells(work, name, figures):
        to_it = None if name == "Lavka" else ratio(results.get((work, "Lavka")), figures)
        return CELLS.get(work, rate_cells)(figures, to_it)

    for line in rows(names, works, results, failures, cells, 7):
        yield line


def rows(names, works, results, failures, cells, number):
    """Lines of Markdown, one for each work and server that was measured, or that failed.

    `cells(work, name, figures)` returns what stands behind the server's name, `number` cells at
    most.
    """
    for work in works:
        title = WORKS[work].name
        for name in names:
            figures = results.get((work, name))
            if figures:
                server = NAMES.get(name, "**%s**" % name)
                if name in failures:
                    server += " (%s)" % failures[name]
                line = cells(work, name, figures)
            elif name in failures and work in SERVERS[name].works:
                server, line = NAMES.get(name, name), [failures[name]]
            else:
                continue
            line += [""] * (number - len(line))
            yield "| %s | %s | %s |" % (title, server, " | ".join(line))
            title = ""


def rate_cells(figures, to_it):
    return [marked("{:,.0f}".format(middle(figures, "rate")), figures)] + milliseconds(figures) + [
        "%.2f" % to_it if to_it else "", "%.1f" % (1e6 * middle(figures, "cost")),
        "%.0f%%" % (100 * middle(figures, "busy"))]


def idle_cells(figures, _):
    return ["%.2f KB each" % middle(figures, "kilobytes"), "%.2f (`ping`; %.2f without them)" % (
        1000 * middle(figures, "among"), 1000 * middle(figures, "alone"))]


def crowd_cells(figures, _):
    return ["%.2f KB each at the peak, %.2f afterwards" % (
        middle(figures, "peak"), middle(figures, "kilobytes"))]


def tick_cells(figures, _):
    return ["%d checkpoints" % middle(figures, "checkpoints")] + milliseconds(figures)


CELLS = {"idle": idle_cells, "crowd": crowd_cells, "ticks": tick_cells}


def milliseconds(figures):
    return ["%.2f" % (1000 * middle(figures, field)) for field in ("p50", "p99", "p999")]


def is_limit(figures):
    """Whether the load, and not the server, may be what these were limited by."""
    return middle(figures, "busy") > LIMITING


def marked(rate, figures):
    return rate + " \\*" if is_limit(figures) else rate


def footnote(results):
    """Lines of Markdown: what the mark in the tables says, if one has it."""
    if any(isinstance(figures[0], load.Result) and is_limit(figures)
           for figures in results.values()):
        yield ("\\* The load was busy for over %.0f%% of the time, and limited what was measured: "
               "the server can do at least this." % (100 * LIMITING))


def cause(tick):
    """What made a tick slow: what took most of it."""
    waiting = tick.seconds - tick.computing
    if tick.checkpoint:
        return "a checkpoint"
    if tick.collecting > tick.seconds / 2:
        return "garbage collection"
    if waiting < tick.seconds / 2:
        return "computing"
    if tick.commit > tick.seconds / 2:
        return "the commit waited, mostly for the disk"
    return "it waited outside the commit, for its core"


def slow_ticks(results):
    """Lines of Markdown: what was slow in the ticks over SLOW_SECONDS."""
    causes = {}
    for figures in results:
        for tick in figures.slow:
            causes.setdefault(cause(tick), []).append(tick)
    yield "| ticks over %.0f ms | number | slowest ms | of it commit | of it computing |" % (
        1000 * SLOW_SECONDS)
    yield "|---|--:|--:|--:|--:|"
    for name, ticks in sorted(causes.items()):
        slowest = max(ticks, key=lambda tick: tick.seconds)
        yield "| %s | %d | %.1f | %.1f | %.1f |" % (
            name, len(ticks), 1000 * slowest.seconds, 1000 * slowest.commit,
            1000 * slowest.computing)


def rounded(figure):
    """With two digits: the kernel's choice of cores makes more of them chance."""
    return "{:,.9g}".format(float("%.2g" % figure))


def sharing_table(names, works, results, failures):
    """Lines of Markdown: those on one PostgreSQL, and their ratios to some of them."""
    others = ["transactions-1", "transactions-4", "postgresql-1"]
    yield "| work | on one PostgreSQL | per second | %s | servers µs | load busy |" % " | ".join(
        "it : " + NAMES[other].replace("*", "") for other in others)
    yield "|---|---|--:|--:|--:|--:|--:|--:|"

    def cells(work, name, figures):
        ratios = [other != name and ratio(figures, results.get((work, other))) for other in others]
        return ([marked(rounded(middle(figures, "rate")), figures)]
                + [rounded(one) if one else "" for one in ratios]
                + ["%.0f" % (1e6 * middle(figures, "cost")),
                   "%.0f%%" % (100 * middle(figures, "busy"))])

    for line in rows(names, works, results, failures, cells, 6):
        yield line


def goals(results):
    """What the project wants to hold: (what, the figure or None, ">=" or "<=", the goal)."""
    def to(other, work, one="Lavka"):
        return ratio(results.get((work, one)), results.get((work, other)))

    def to_best_peer(work):
        known = [to(peer, work) for peer in PYTHON_PEERS]
        return min(known) if None not in known else None

    trades, idles = results.get(("trade50", "Lavka")), results.get(("idle", "Lavka"))
    crowds, timed = results.get(("crowd", "Lavka")), results.get(("ticks", "timed"))
    return [
        ("durable trades, 50 clients, to redis", to("redis", "trade50"), ">=", 1.25),
        ("durable trades, 50 clients, to the best Python peer", to_best_peer("trade50"), ">=", 25),
        ("durable trades, 500 clients, to redis", to("redis", "trade500"), ">=", 1.1),
        ("`ping`, to uvloop", to("uvloop", "ping"), ">=", 1.3),
        ("`ping`, to Node", to("node", "ping"), ">=", 1.0),
        ("`ping`, to a bare echo loop", to("echo", "ping"), ">=", 0.75),
        ("`ping`, 16 deep, to uvloop", to("uvloop", "ping16"), ">=", 2.5),
        ("returning players, to redis", to("redis", "returning"), ">=", 1.0),
        ("new players, to the best Python peer", to_best_peer("new"), ">=", 15),
        ("KB of memory for an idle player", idles and middle(idles, "kilobytes"), "<=", 1.5),
        ("KB at the peak for each of 15,000 players who log in at once",
         crowds and middle(crowds, "peak"), "<=", 1.5),
        ("p50 of `ping` among 15,000 idle players, to that without them",
         idles and median(one.among / one.alone for one in idles), "<=", 1.3),
        ("trades with 1,000,000 accounts, to 1,000",
         to("thousand", "trade50", "million"), ">=", 0.95),
        ("p99.9 of a trade, 50 clients, to its p50",
         trades and median(one.p999 / one.p50 for one in trades), "<=", 10),
        ("p99.9 of a tick, 50 clients, to its p50",
         timed and median(one.p999 / one.p50 for one in timed), "<=", 10),
        ("ms of the slowest tick of all rounds",
         timed and 1000 * max(one.slowest for one in timed), "<=", 50),
        ("`ping` on Python 2.7, to this Python", to("Lavka", "ping", "2.7"), ">=", 0.7),
        ("trades on Python 2.7, to this Python", to("Lavka", "trade50", "2.7"), ">=", 0.7),
        ("durable trades, 50 clients, on PostgreSQL, to a transaction a request",
         to("transactions-1", "trade50", "postgresql-1"), ">=", 20),
    ]


def goal_table(results):
    """Lines of Markdown."""
    yield "| | measured | goal | |"
    yield "|---|--:|--:|---|"
    for name, figure, sign, goal in goals(results):
        if figure is None:
            yield "| %s | | %s %s | not measured |" % (name, sign, goal)
        else:
            held = figure >= goal if sign == ">=" else figure <= goal
            yield "| %s | %.2f | %s %s | %s |" % (name, figure, sign, goal,
                                                  "met" if held else "missed")


def panels(names, results):
    """The figures for the chart."""
    for work in CHART:
        bars = [(name, middle(results[work, name], "rate")) for name in names
                if (work, name) in results and name not in ("2.7", "thousand", "million")]
        if bars:
            yield WORKS[work].name.replace("`", ""), WORKS[work].unit, bars


def machine():
    """What was measured on, in a line."""
    with open("/proc/cpuinfo") as cpuinfo:
        models = [line.split(":", 1)[1].strip() for line in cpuinfo
                  if line.startswith("model name")]
    parts = ["%d x %s" % (os.cpu_count(), models[0] if models else platform.machine()),
             "Linux " + platform.release(), "Python " + platform.python_version(),
             "SQLite " + sqlite3.sqlite_version]
    postgres = os.path.join(pgcluster.BINARIES or "", "postgres")
    for command, name in ((["redis-server", "--version"], "redis"), (["node", "--version"], "Node"),
                          ([postgres, "--version"], "PostgreSQL")):
        if shutil.which(command[0]):
            said = subprocess.run(command, stdout=subprocess.PIPE, universal_newlines=True).stdout
            parts.append("%s %s" % (name, re.search(r"[0-9][0-9.]+", said).group()))
    return ", ".join(parts)
