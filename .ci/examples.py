"""Starts every example once and uses it as a stranger would. Usage: examples.py FOLDER

Not soak, which uses itself and has a step of its own in .ci/run."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile

folder = sys.argv[1]
running = []


def start(name, *args, **how):
    process = subprocess.Popen([os.path.join(folder, name), *args], stdout=subprocess.PIPE, **how)
    running.append(process)
    return process


def address(line):
    host, port = line.split()[-1].rsplit(":", 1)
    return host, int(port)


def connect(addr):
    return socket.create_connection(addr, timeout=10)


def read_all(sock):
    data = b""
    while piece := sock.recv(65536):
        data += piece
    return data


def check(what, holds):
    print(("ok      " if holds else "FAILED  ") + what, flush=True)
    if not holds:
        sys.exit(1)


try:
    echo = start("echo", "127.0.0.1:0", stderr=subprocess.DEVNULL)
    echo_addr = address(echo.stdout.readline().decode())
    client = connect(echo_addr)
    client.sendall(b"hello")
    client.shutdown(socket.SHUT_WR)
    check("echo sends back what it receives", read_all(client) == b"hello")

    one = start("client", "localhost:%d" % echo_addr[1], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = one.communicate(b"x" * 300000, timeout=20)
    check("client sends its input and prints the answer", out == b"x" * 300000 and one.returncode == 0)
    check("client tells how it ended", b"finished" in err)

    files = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tests", "tls", "files")
    cert, key = (os.path.join(files, "ed25519.%s.pem" % kind) for kind in ("cert", "key"))
    sealed = start("echo", "127.0.0.1:0", "--tls", cert, key, stderr=subprocess.DEVNULL)
    sealed_addr = address(sealed.stdout.readline().decode())
    one = start("client", "localhost:%d" % sealed_addr[1], "--tls", "--ca", cert,
                stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = one.communicate(b"x" * 300000, timeout=20)
    check("echo and client do the same over TLS", out == b"x" * 300000 and one.returncode == 0 and b"finished" in err)

    proxy = start("proxy", "127.0.0.1:0", "%s:%d" % echo_addr, stderr=subprocess.DEVNULL)
    proxied = connect(address(proxy.stdout.readline().decode()))
    proxied.sendall(b"through")
    proxied.shutdown(socket.SHUT_WR)
    check("proxy passes both directions and both ends", read_all(proxied) == b"through")

    rpc = start("rpc", "serve", "127.0.0.1:0")
    rpc_addr = rpc.stdout.readline().decode().split()[-1]
    call = start("rpc", "call", rpc_addr, "sleep 200 slow", "quick")
    check("rpc answers, and answers overtake each other", call.communicate(timeout=10)[0] == b"QUICK\nSLOW\n")
    rpc.send_signal(signal.SIGTERM)
    check("rpc ends with status 0", rpc.wait(10) == 0)

    with tempfile.TemporaryDirectory() as directory:
        with open(os.path.join(directory, "index.html"), "wb") as file:
            file.write(b"a page")
        http = start("http", "127.0.0.1:0", directory)
        surfer = connect(address(http.stdout.readline().decode()))
        surfer.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        surfer.sendall(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbody")
        page, _, echoed = read_all(surfer).rpartition(b"\r\n\r\n")
        check("http serves a file and sends a body back", b"\r\n\r\na page" in page and echoed == b"body")
        http.send_signal(signal.SIGTERM)
        check("http ends with status 0", http.wait(15) == 0)

    inetd = start("inetd", "127.0.0.1:0", "--", "sort")
    sorted_by = connect(address(inetd.stdout.readline().decode()))
    sorted_by.sendall(b"b\na\n")
    sorted_by.shutdown(socket.SHUT_WR)
    check("inetd serves a client by a program", read_all(sorted_by) == b"a\nb\n")

    embed = start("embed", "127.0.0.1:0", stdin=subprocess.PIPE)
    member = connect(address(embed.stdout.readline().decode()))
    member.sendall(b"mine ")
    check("embed answers its clients", member.recv(100) == b"mine ")
    embed.stdin.write(b"yours")
    embed.stdin.close()
    check("embed passes on what is typed, and ends with its input", read_all(member) == b"yours")
    member.close()
    check("embed ends with status 0", embed.wait(10) == 0)

    resp = start("resp", "127.0.0.1:0", stderr=subprocess.DEVNULL)
    asking = connect(address(resp.stdout.readline().decode()))
    asking.sendall(b"SET a 41\r\nINCR a\r\nQUIT\r\n")
    check("resp answers", read_all(asking) == b"+OK\r\n:42\r\n+OK\r\n")

    chat = start("chat", "--irc", "127.0.0.1:0", "--web", "127.0.0.1:0")
    irc, web = (address(chat.stdout.readline().decode().replace("//", " ").rstrip("/\n")) for _ in range(2))
    talker = connect(irc)
    talker.sendall(b"NICK me\r\nUSER me 0 * :me\r\nJOIN #a\r\nQUIT :bye\r\n")
    heard = read_all(talker)
    check("chat takes a client in, and out", b" 366 me #a " in heard and heard.endswith(b"(Quit: bye)\r\n"))
    page = connect(web)
    page.sendall(b"GET / HTTP/1.0\r\n\r\n")
    check("chat serves its page", b"</html>" in read_all(page))
    chat.send_signal(signal.SIGTERM)
    check("chat ends with status 0", chat.wait(15) == 0)

    lab = start("lab", "--listen", "127.0.0.1:0")
    listening = json.loads(lab.stdout.readline())
    victim = connect(address(listening["addr"]))
    victim.sendall(b"SENDCLOSE 100000\n")
    check("lab does what it is told", len(read_all(victim)) == 100000)
    victim.close()
    lines = [json.loads(lab.stdout.readline()) for _ in range(2)]
    lines += [json.loads(lab.stdout.readline())] if lines[-1]["event"] == "congested" else []
    check("lab reports it", lines[-1]["event"] == "close" and lines[-1]["reason"] == "finished")
    lab.send_signal(signal.SIGTERM)
    check("lab ends with status 0", lab.wait(10) == 0)
finally:
    for process in running:
        if process.poll() is None:
            process.kill()
