#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""A socket that is used inside a TLS call is not always the one that TLS runs on: a server whose
callback asks another machine, in the clear, during each handshake. That connection is none of ours."""
import time

from lib import PY, equal, fact, flows, run

SERVER = """
import socket, ssl, sys
def ask(sock, name, ctx):
    with socket.create_connection(("10.71.1.2", 7001)) as s:
        s.sendall(b"who is %s?" % name.encode())
        assert s.recv(100) == b"a friend"
c = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
c.load_cert_chain(sys.argv[1], sys.argv[2])
c.sni_callback = ask
l = socket.create_server(("10.71.1.1", 443))
print("up", flush=True)
for i in range(5):
    k, _ = l.accept()
    k = c.wrap_socket(k, server_side=True)
    while (b := k.recv(1000)):
        k.sendall(b.upper())
    k.close()
"""
ASKED = """
import socket
l = socket.create_server(("10.71.1.2", 7001))
print("up", flush=True)
for i in range(5):
    k, _ = l.accept()
    k.recv(100)
    k.sendall(b"a friend")
    k.close()
"""
CLIENT = """
import socket, ssl
c = ssl._create_unverified_context()
for i in range(5):
    s = c.wrap_socket(socket.create_connection(("10.71.1.1", 443)), server_hostname="host%d" % i)
    s.sendall(b"exchange %d" % i)
    assert s.recv(100) == b"EXCHANGE %d" % i
    s.close()
"""


def main(t):
    t.lab(sensor=False)
    crt, key = t.cert()
    agent = t.alone("-w", t.dir / "out.pcapng")
    asked = t.spawn("asked", PY, "-u", "-c", ASKED, ns=t.cli)
    server = t.spawn("server", PY, "-u", "-c", SERVER, crt, key, ns=t.srv)
    for p in (asked, server):
        p.wait_line("up", where="out")
    client = t.spawn("client", PY, "-c", CLIENT, ns=t.cli)
    equal(client.wait(20), 0, f"client: {client.err()[-300:]}")
    time.sleep(0.5)
    equal(agent.stop(), 0, "agent's exit status")
    seen = flows(t.dir / "out.pcapng")
    equal([(bytes(f.data[0]), bytes(f.data[1]), f.server[1]) for f in seen],
          [(b"exchange %d" % i, b"EXCHANGE %d" % i, 443) for i in range(5)], "flows")
    n = agent.counters()
    taken = n["flow_connections"] - n.get("flow_connections_filtered", 0) - n.get("flow_connections_standby", 0)
    equal(taken, 5, f"connections taken for TLS: {n}")
    fact("5 handshakes with a plain exchange inside: 5 flows, none of the plain connections")


run(main)
