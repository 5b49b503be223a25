# -*- coding: utf-8 -*-
"""Lavka's server, which also keeps how long each tick took, and why.

    python bench/timed_server.py FILE [an option of server.py ...]

Once it has stopped it writes FILE: a Tick for each tick that served a request, as a line of JSON.
It tells checkpoints from other commits on SQLite only.
"""
import gc
import json
import os
import resource
import sys
import time
from collections import namedtuple

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import server

# `seconds` is what `Service.end_tick` gets. Of these, `commit` was the commit, `collecting` the
# garbage collector, and `computing` the time on a core; what is left of them was waiting.
# `checkpoint` says whether the file of the database was written. All are seconds.
Tick = namedtuple("Tick", "seconds commit collecting computing checkpoint")


class TimedService(server.Service):
    """A service that keeps a Tick of each tick."""

    def __init__(self, shop, *arguments, **options):
        super().__init__(shop, *arguments, **options)
        self.path = shop.storage.name
        self.ticks = []
        self.commit_time = self.collection_time = 0     # since the start
        self.totals = self.count()
        gc.callbacks.append(self.on_collection)

    def count(self):
        """Return what has come together since the start: requests, the fields of Tick."""
        usage = resource.getrusage(resource.RUSAGE_THREAD)
        return (sum(self.requests.values()), self.commit_time, self.collection_time,
                usage.ru_utime + usage.ru_stime, os.stat(self.path).st_mtime_ns)

    def on_collection(self, phase, _):
        now = time.perf_counter()
        self.collection_time += now if phase == "stop" else -now

    def commit(self):
        begin = time.perf_counter()
        super().commit()
        self.commit_time += time.perf_counter() - begin

    def end_tick(self, seconds):
        super().end_tick(seconds)
        before, self.totals = self.totals, self.count()
        requests, commit, collecting, computing, written = (
            now - then for now, then in zip(self.totals, before))
        if requests:
            self.ticks.append(Tick(seconds, commit, collecting, computing, written > 0))


def main():
    path = sys.argv.pop(1)
    services = []

    def open_service(*arguments, **options):
        services.append(TimedService(*arguments, **options))
        return services[0]

    server.Service = open_service
    status = server.main()
    with open(path, "w") as file:
        for tick in services[0].ticks if services else ():
            file.write(json.dumps(tick._asdict()) + "\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
