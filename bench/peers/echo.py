# -*- coding: utf-8 -*-
"""A bare loop of `selectors` that sends back what it gets: the best that a server on it can do."""
import selectors
import socket
import sys

listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind((sys.argv[1], int(sys.argv[2])))
listener.listen(1024)
selector = selectors.DefaultSelector()
selector.register(listener, selectors.EVENT_READ)
while True:
    for key, _ in selector.select():
        sock = key.fileobj
        if sock is listener:
            sock, _ = listener.accept()
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            selector.register(sock, selectors.EVENT_READ)
            continue
        try:
            data = sock.recv(16384)
        except ConnectionError:
            data = b""
        if data:
            sock.send(data)
        else:
            selector.unregister(sock)
            sock.close()
