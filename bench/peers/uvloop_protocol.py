# -*- coding: utf-8 -*-
"""A peer on asyncio's protocols, with uvloop for the loop."""
import asyncio

import uvloop

from shop import LISTEN_QUEUE, HOST, PORT, Session


class Protocol(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
        self.session = Session()
        self.tail = b""

    def data_received(self, data):
        lines = (self.tail + data).split(b"\n")
        self.tail = lines.pop()
        if lines:
            self.transport.write(b"".join([self.session.answer(line) for line in lines]))

    def connection_lost(self, error):
        self.session.close()


async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Protocol, HOST, PORT, backlog=LISTEN_QUEUE)
    await server.serve_forever()


loop = uvloop.new_event_loop()
loop.run_until_complete(main())
