# -*- coding: utf-8 -*-
"""A peer on asyncio's streams."""
import asyncio

from shop import LISTEN_QUEUE, HOST, PORT, Session


async def serve(reader, writer):
    session = Session()
    try:
        while True:
            line = await reader.readline()
            if not line:
                break
            writer.write(session.answer(line))
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        session.close()
        writer.close()


async def main():
    server = await asyncio.start_server(serve, HOST, PORT, backlog=LISTEN_QUEUE)
    await server.serve_forever()


asyncio.run(main())
