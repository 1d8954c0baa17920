"""asyncio, and with --uvloop first the same program on uvloop: protocols and transports.

asyncio_server.py [--uvloop] ROLE [UPSTREAM], with the roles and the first line of race-peer (main.rs).
"""

import asyncio
import socket
import sys

FRAME = 64
CAP = 1 << 20


class Echo(asyncio.Protocol):
    """Writes without asking whether the client reads, as most programs do."""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


class Fanout(asyncio.Protocol):
    subscribers = set()

    def connection_made(self, transport):
        self.transport = transport
        self.rest = b""

    def data_received(self, data):
        if self.rest:
            data = self.rest + data
        whole = len(data) - len(data) % FRAME
        self.rest = data[whole:]
        at = 0
        while at < whole:
            if data[at] == ord("S"):
                self.subscribers.add(self.transport)
                self.transport.write(data[at : at + FRAME])
                at += FRAME
                continue
            end = at + FRAME
            while end < whole and data[end] != ord("S"):
                end += FRAME
            self.publish(data[at:end])
            at = end

    def publish(self, frames):
        lost = []
        for transport in self.subscribers:
            transport.write(frames)
            if transport.get_write_buffer_size() > CAP:
                lost.append(transport)
        for transport in lost:
            self.subscribers.discard(transport)
            transport.abort()

    def connection_lost(self, error):
        self.subscribers.discard(self.transport)


class Relay(asyncio.Protocol):
    """One side of a proxied connection."""

    def __init__(self, upstream=None):
        self.upstream = upstream
        self.partner = None

    def connection_made(self, transport):
        self.transport = transport
        if self.upstream:
            transport.pause_reading()
            asyncio.get_running_loop().create_task(self.connect())

    async def connect(self):
        loop = asyncio.get_running_loop()
        try:
            _, partner = await loop.create_connection(Relay, *self.upstream)
        except OSError:
            self.transport.abort()
            return
        self.partner, partner.partner = partner, self
        self.transport.resume_reading()

    def data_received(self, data):
        self.partner.transport.write(data)

    def eof_received(self):
        self.partner.transport.write_eof()
        return True

    def pause_writing(self):
        if self.partner:
            self.partner.transport.pause_reading()

    def resume_writing(self):
        if self.partner and not self.partner.transport.is_closing():
            self.partner.transport.resume_reading()

    def connection_lost(self, error):
        if self.partner:
            self.partner.transport.abort() if error else self.partner.transport.close()


async def main(role, upstream):
    if role == "proxy":
        host, port = upstream.rsplit(":", 1)

    def protocol():
        if role == "echo":
            return Echo()
        return Fanout() if role == "fanout" else Relay((host, int(port)))

    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    server = await asyncio.get_running_loop().create_server(protocol, sock=listener, backlog=4096)
    print("listening on 127.0.0.1:%d" % listener.getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if arguments and arguments[0] == "--uvloop":
        import uvloop

        arguments.pop(0)
        run = uvloop.run
    else:
        run = asyncio.run
    run(main(arguments[0], arguments[1] if len(arguments) > 1 else None))
