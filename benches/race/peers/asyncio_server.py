"""asyncio, and with --uvloop first the same program on uvloop: protocols and transports.

asyncio_server.py [--uvloop] ROLE [UPSTREAM], with the roles and the first line of race-peer (main.rs).
"""

import asyncio
import functools
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

    def eof_received(self):
        self.subscribers.discard(self.transport)

    def connection_lost(self, error):
        self.subscribers.discard(self.transport)


class Relay(asyncio.Protocol):
    """One side of a proxied connection."""

    def __init__(self, upstream=None):
        self.upstream = upstream
        self.partner = None
        self.early = b""
        self.ended = False

    def connection_made(self, transport):
        self.transport = transport
        self.forward = self.hold
        if self.upstream:
            self.connecting = asyncio.get_running_loop().create_task(self.connect())

    def join(self, partner):
        self.partner = partner
        self.forward = partner.transport.write

    async def connect(self):
        loop = asyncio.get_running_loop()
        try:
            _, partner = await loop.create_connection(type(self), *self.upstream)
        except OSError:
            self.transport.abort()
            return
        if self.transport.is_closing():
            partner.transport.abort()
            return
        partner.join(self)
        self.join(partner)
        for side in (self, partner):
            if side.early:
                side.transport.resume_reading()
                side.forward(side.early)
            if side.ended:
                side.pass_end()

    def hold(self, data):
        """Keeps what came before the partner was there, and reads no more until it is."""
        self.early += data
        self.transport.pause_reading()

    def data_received(self, data):
        self.forward(data)

    def eof_received(self):
        self.ended = True
        if self.partner:
            self.pass_end()
        return True

    def pass_end(self):
        partner = self.partner
        if partner.ended:  # closes when all is written
            partner.transport.close()
            self.transport.close()
        elif not partner.transport.is_closing():
            partner.transport.write_eof()

    def pause_writing(self):
        if self.partner:
            self.partner.transport.pause_reading()

    def resume_writing(self):
        partner = self.partner
        if partner and not partner.ended and not partner.transport.is_closing():
            partner.transport.resume_reading()

    def connection_lost(self, error):
        if self.partner:
            self.partner.transport.abort() if error else self.partner.transport.close()


class Buffered(asyncio.BufferedProtocol):
    """Makes a protocol read into one buffer for all. Plain asyncio otherwise allocates 256 KiB for
    each read, which costs it more than the copy here; uvloop does not, and is slower with this."""

    buffer = memoryview(bytearray(256 << 10))

    def get_buffer(self, sizehint):
        return self.buffer

    def buffer_updated(self, count):
        self.data_received(bytes(self.buffer[:count]))


async def main(role, upstream, plain):
    protocol = {"echo": Echo, "fanout": Fanout, "proxy": Relay}[role]
    if plain:
        protocol = type("Buffered" + protocol.__name__, (protocol, Buffered), {})
    if role == "proxy":
        host, port = upstream.rsplit(":", 1)
        protocol = functools.partial(protocol, (host, int(port)))
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    server = await asyncio.get_running_loop().create_server(protocol, sock=listener, backlog=4096)
    print("listening on 127.0.0.1:%d" % listener.getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    arguments = sys.argv[1:]
    plain = arguments[0] != "--uvloop"
    if plain:
        run = asyncio.run
    else:
        import uvloop

        arguments.pop(0)
        run = uvloop.run
    run(main(arguments[0], arguments[1] if len(arguments) > 1 else None, plain))
