"""A TCP relay between a client and a server, to delay what is answered or to speak TLS in front of it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


@asynccontextmanager
async def relay(
    port: int, *, delay: Callable[[], float] | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """Yields the port to dial. `delay` gives the seconds that the next read of the server's answer is held."""
    pumps: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            writer.transport.abort()
            return
        for pump in (_pump(reader, far_writer, None), _pump(far_reader, writer, delay)):
            task = asyncio.create_task(pump)
            pumps.add(task)
            task.add_done_callback(pumps.discard)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        running = list(pumps)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await asyncio.sleep(0)


async def _pump(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    delay: Callable[[], float] | None,
) -> None:
    try:
        while data := await reader.read(65_536):
            if delay is not None:
                await asyncio.sleep(delay())
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.transport.abort()
