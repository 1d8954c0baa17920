"""A peer of Python's ssl for tests/tls/programs.rs: `peer.py client|server ADDR-PORT VERSION MODE CERT [KEY]`.

It does one thing that MODE names, and prints what came of it. No end of a stream is taken for one of a
session: suppress_ragged_eofs is off.
"""

import socket
import ssl
import struct
import sys
import time

side, port, version, mode, cert = sys.argv[1:6]
VERSION = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}[version]


def context():
    purpose = ssl.PROTOCOL_TLS_CLIENT if side == "client" else ssl.PROTOCOL_TLS_SERVER
    made = ssl.SSLContext(purpose)
    made.minimum_version = made.maximum_version = VERSION
    if side == "client":
        made.load_verify_locations(cert)
    else:
        made.load_cert_chain(cert, sys.argv[6])
    return made


def receive(tls, count):
    data = b""
    while len(data) < count:
        part = tls.recv(count - len(data))
        if not part:
            raise EOFError(f"after {len(data)} of {count}")
        data += part
    return data


def reset(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


class Sealed:
    """A session in memory, whose bytes go out as the test wants."""

    def __init__(self, sock):
        self.sock = sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context().wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")

    def send(self, step=1 << 20):
        data = self.outgoing.read()
        for start in range(0, len(data), step):
            self.sock.sendall(data[start : start + step])

    def shake_hands(self, step):
        while True:
            try:
                self.tls.do_handshake()
                return self.send(step)
            except ssl.SSLWantReadError:
                self.send(step)
                self.incoming.write(self.sock.recv(1 << 16))

    def receive(self, count):
        data = b""
        while len(data) < count:
            try:
                data += self.tls.read(count - len(data))
            except ssl.SSLWantReadError:
                self.incoming.write(self.sock.recv(1 << 16))
        return data


def run(tls):
    if mode == "echo":
        tls.sendall(b"hello")
        assert receive(tls, 5) == b"hello"
        # Sends close_notify and waits for ours.
        tls.unwrap().close()
    elif mode == "abandon":
        # Python's close says nothing to the peer.
        tls.sendall(b"hello")
        assert receive(tls, 5) == b"hello"
        tls.close()
    elif mode == "to-the-end":
        tls.sendall(b"hello")
        data = b""
        while part := tls.recv(1 << 16):
            data += part
        print("bytes", len(data))
        tls.unwrap().close()
    elif mode == "mute":
        tls.sendall(b"hello")
        time.sleep(30)


sock = socket.create_connection(("127.0.0.1", int(port)), 10) if side == "client" else None
try:
    if side == "server":
        listener = socket.create_server(("127.0.0.1", 0))
        listener.settimeout(10)
        print("port", listener.getsockname()[1], flush=True)
        sock, _ = listener.accept()
        sock.settimeout(10)
        with context().wrap_socket(sock, server_side=True, suppress_ragged_eofs=False) as tls:
            if mode == "cut":
                receive(tls, 5)
                tls.sendall(b"hello")
                sock = tls.detach()
                socket.socket(fileno=sock).close()
            else:
                data = b""
                while part := tls.recv(1 << 16):
                    data += part
                    if mode == "echo":
                        tls.sendall(part)
                print("bytes", len(data))
                tls.unwrap().close()
    elif mode in ("bytes", "reset"):
        sealed = Sealed(sock)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sealed.shake_hands(1 if mode == "bytes" else 1 << 20)
        sealed.tls.write(b"hello")
        sealed.send(1 if mode == "bytes" else 1 << 20)
        assert sealed.receive(5) == b"hello"
        if mode == "reset":
            sealed.tls.write(b"x" * 10_000)
            sock.sendall(sealed.outgoing.read()[:5_000])
            time.sleep(0.05)
            reset(sock)
        else:
            try:
                sealed.tls.unwrap()
            except ssl.SSLWantReadError:
                sealed.send(1)
            sock.close()
    else:
        run(context().wrap_socket(sock, server_hostname="localhost", suppress_ragged_eofs=False))
    print("done")
except Exception as error:
    print("failed", repr(error))
