"""An exporter for Prometheus: asks a server for its statistics at each scrape."""
import os
import sys
from itertools import accumulate

from prometheus_client import CollectorRegistry, core, start_http_server
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
import cli
from admin_socket import AdminClient, chosen_path
from protocol import ErrorCode, RpcError, ServerGone

GAUGES = {"uptime_seconds": "Time since the start.", "clients": "Connections.",
          "max_clients": "Connections at most.", "players": "Connections with a login.",
          "largest_batch": "Most changes in a commit.", "wal_bytes": "SQLite's write-ahead log.",
          "unsent_bytes": "Replies that clients have not taken yet."}
COUNTERS = {"requests": ("Requests.", "method"), "refusals": ("Refused requests.", "reason"),
            "trades": ("Trades.",), "commits": ("Transactions.",), "log_lost": ("Lost lines.",)}


class Collector:
    """Yields the metrics of the server at an admin socket, `lavka_up` alone where none answers."""
    def __init__(self, path):
        self.path = path

    def collect(self):
        try:
            with AdminClient(self.path) as server:
                stats = server.stats()
        except (ServerGone, RpcError):
            yield core.GaugeMetricFamily("lavka_up", "Whether the server answers.", 0)
            return
        yield core.GaugeMetricFamily("lavka_up", "Whether the server answers.", 1)
        yield core.InfoMetricFamily("lavka_build", "Version.", {"version": stats["version"]})
        for figure, meaning in GAUGES.items():
            yield core.GaugeMetricFamily("lavka_" + figure, meaning, stats[figure])
        # Without the zeros, the first refusal of a kind would be no increase, and raise no alarm.
        stats["refusals"] = {**{code.value[1]: 0 for code in ErrorCode}, **stats["refusals"]}
        for figure, (meaning, *labels) in COUNTERS.items():
            counter = core.CounterMetricFamily("lavka_" + figure, meaning, labels=labels)
            for value, number in (stats[figure] if labels else {"": stats[figure]}).items():
                counter.add_metric([value], number)
            yield counter
        for figure in ("commit_seconds", "tick_seconds"):
            times = stats[figure]
            buckets = [*zip(map(str, times["bounds"] + ["+Inf"]), accumulate(times["counts"]))]
            yield core.HistogramMetricFamily("lavka_" + figure, "Durations.", buckets, times["sum"])


if __name__ == "__main__":
    cli.prepare_process()
    parser = cli.Parser(description=__doc__)
    cli.add_exporter_options(parser)
    options = parser.parse_args()
    registry = CollectorRegistry()
    registry.register(Collector(chosen_path(options)))
    try:
        start_http_server(*options.listen, registry)[1].join()
    except OSError as error:
        parser.error("cannot listen there: %s" % error.strerror)
