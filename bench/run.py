# -*- coding: utf-8 -*-
"""Lavka beside its peers: starts each server in turn, drives all with one load, and compares.

    python bench/run.py [--rounds N] [--seconds S] [--servers NAME ...] [--works NAME ...]

A round starts every server once, so that a machine that is slow for a while is slow for all of
them. Servers run on one core, the load on another; those on PostgreSQL, which are compared among
themselves, run on all cores, as it does. A figure is the median of the rounds, a ratio the median
of the rounds' ratios. Progress goes to stderr, the tables, in Markdown, to stdout, and with --chart
FILE a picture of the first to a file.
"""
from __future__ import division, print_function

import argparse
import os
import resource
import shutil
import sys
import tempfile

import load
import report
from servers import ROOT, SERVERS, started
from works import FRESH, WORKS, Seconds


def measure(names, works, rounds, seconds, directory):
    """{(work, server): [a Result, Idle, Crowd or Ticks for each round]}, {server: what went
    wrong}."""
    results, failures = {}, {}
    cores = sorted(os.sched_getaffinity(0))
    scratch = tempfile.mkdtemp(prefix=".bench-", dir=directory)
    try:
        for number in range(rounds):
            # Another one begins each time: what depends on the place in a round evens out.
            first = number % len(names)
            for name in names[first:] + names[:first]:
                peer = SERVERS[name]
                if peer.missing:
                    failures[name] = "not installed: %s" % peer.missing
                chosen = [one for one in peer.works if one in works]
                for todo in [[one for one in chosen if one not in FRESH]] + [
                        [one] for one in chosen if one in FRESH]:
                    if not todo or name in failures:
                        continue
                    try:
                        with started(peer, scratch, cores, seconds) as running:
                            for work in todo:
                                say("round %d of %d: %s: %s" % (number + 1, rounds, name, work))
                                result = WORKS[work].work(running)
                                results.setdefault((work, name), []).append(result)
                    except (load.LoadError, OSError, AssertionError) as error:
                        failures[name] = "failed in round %d: %s" % (number + 1, error)
    finally:
        shutil.rmtree(scratch)
        say("")
    return results, failures


def say(text):
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K%s" % text)
    elif text:
        sys.stderr.write(text + "\n")
    sys.stderr.flush()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=load.positive, default=5)
    parser.add_argument("--seconds", type=float, default=2, help="of a measurement (default: 2)")
    parser.add_argument("--tick-seconds", type=float, default=60,
                        help="of the load whose every tick is timed (default: 60)")
    parser.add_argument("--servers", nargs="+", choices=SERVERS, default=list(SERVERS),
                        metavar="NAME", help="these alone: %s" % ", ".join(SERVERS))
    parser.add_argument("--works", nargs="+", choices=WORKS, default=list(WORKS),
                        metavar="NAME", help="these alone: %s" % ", ".join(WORKS))
    parser.add_argument("--directory", default=ROOT,    # where fsync is one; not in /tmp
                        help="for the databases, on the disk to measure (default: this checkout)")
    parser.add_argument("--chart", metavar="FILE", help="write the chart to this SVG file")
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    names = [name for name in SERVERS if name in options.servers]
    if "returning" in options.works:
        options.works.append("new")             # or nobody could return
    works = [work for work in WORKS if work in options.works]
    if options.chart:
        try:
            import chart
        except ImportError:
            raise SystemExit("no chart without matplotlib: pip install -r bench/requirements.txt")
        try:
            open(options.chart, "ab").close()
        except OSError as error:
            raise SystemExit("no chart: %s" % error)
    seconds = Seconds(options.seconds, options.tick_seconds)
    results, failures = measure(names, works, options.rounds, seconds, options.directory)
    print(report.machine())
    for lines in report.tables(names, works, results, failures):
        print()
        for line in lines:
            print(line)
    if any(failure.startswith("failed") for failure in failures.values()):
        raise SystemExit("Not every server got through.")
    drawn = list(report.panels(names, results))
    if options.chart and drawn:
        chart.draw(options.chart, drawn)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.stderr.write("\nstopped; the servers, too\n")
        raise SystemExit(130)
