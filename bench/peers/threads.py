# -*- coding: utf-8 -*-
"""A peer with a thread for each connection."""
import socketserver
import threading

from shop import LISTEN_QUEUE, HOST, PORT, Session

lock = threading.Lock()         # there is one connection to the database


class Handler(socketserver.StreamRequestHandler):
    disable_nagle_algorithm = True

    def handle(self):
        session = Session()
        try:
            for line in self.rfile:
                with lock:
                    reply = session.answer(line)
                self.wfile.write(reply)
        except ConnectionError:
            pass
        finally:
            with lock:
                session.close()


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = LISTEN_QUEUE


threading.stack_size(256 * 1024)        # ten thousand threads are to fit
Server((HOST, PORT), Handler).serve_forever()
