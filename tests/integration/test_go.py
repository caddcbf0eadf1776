#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""Go's crypto/tls, each release and way of linking that is here: bytes and addresses at both ends.

SSLC_TEST_GO: Go trees to use, separated by colons; default: those of the distribution.
SSLC_TEST_GO_CONNS: connections at once; default 200.
"""
import collections
import concurrent.futures
import os
import re
import time

from lib import GO_FLAGS, Skip, check, equal, fact, find_flow, flows, go_build, go_trees, losses, run, sha256, until

PORT = 8443
CONNS = int(os.environ.get("SSLC_TEST_GO_CONNS", "200"))
# few threads, collection all the time
STRESS = {"GOMAXPROCS": "2", "GOGC": "1"}
Conn = collections.namedtuple("Conn", "here there nin sin nout sout")


def port_of(address):
    return int(address.rpartition(":")[2])


def told(proc):
    """What a program said of its connections, by the port at the client's end."""
    lines = re.findall(r"^conn (\S+) (\S+) (\d+) (\w+) (\d+) (\w+)$", proc.out(), re.M)
    conns = [Conn(a, b, int(n), s, int(m), o) for a, b, n, s, m, o in lines]
    return {port_of(c.here if port_of(c.there) == PORT else c.there): c for c in conns}


def compare(seen, conns, client, what):
    """Each flow against what the program at one end took and gave."""
    equal(len(seen), len(conns), f"{what}: flows")
    for port, c in conns.items():
        f = find_flow(seen, port, PORT)
        equal((f.client[0], f.server[0]), ("10.71.1.2", "10.71.1.1"), f"{what}: addresses")
        sent, got = (f.data[0], f.data[1]) if client else (f.data[1], f.data[0])
        equal((len(sent), sha256(sent)), (c.nout, c.sout), f"{what}: written on port {port}")
        equal((len(got), sha256(got)), (c.nin, c.sin), f"{what}: read on port {port}")


def capture(t, name, end):
    """Its file; a comma in its name would have to be escaped."""
    return t.dir / f"{name.replace(',', '')}-{end}.pcapng"


def both_agents(t, name):
    return (t.alone("-w", capture(t, name, "s"), iface="srv0", ns=t.srv, name="agent-s"),
            t.alone("-w", capture(t, name, "c"), iface="cli0", ns=t.cli, name="agent-c"))


def serve(t, exe, role="serve"):
    crt, key = t.cert()
    p = t.spawn("server", exe, role, f"10.71.1.1:{PORT}", crt, key, ns=t.srv, env=STRESS)
    p.wait_line("^listening$", where="out")
    return p


def talk(t, exe, conns, rounds, size):
    return t.spawn("client", exe, "talk", f"10.71.1.1:{PORT}", conns, rounds, size, ns=t.cli, stdin=True, env=STRESS)


def finish(agents, server):
    """Both agents leave in peace, the probes have lost nothing, the server still lives."""
    time.sleep(1)
    equal({k: v for k, v in losses(*agents).items() if ":capture_" in k}, {}, "losses")
    for a in agents:
        equal(a.stop(), 0, "agent's exit status")
    check(server.alive(), "the server died:", server.err()[-500:])
    server.stop()


def raw(t, exe, name, conns, rounds, size):
    """Goroutines by the hundred on two threads, growing stacks, collection all the time."""
    agents = both_agents(t, name)
    server = serve(t, exe)
    client = talk(t, exe, conns, rounds, size)
    client.wait_line("^half way$", 120, "out")
    client.say("", "^done$", 120)
    equal(client.wait(20), 0, "client's exit status")
    until(lambda: len(told(server)) == conns, 20, "the server's account")
    finish(agents, server)
    compare(flows(capture(t, name, "c")), told(client), True, f"{name}: client")
    compare(flows(capture(t, name, "s")), told(server), False, f"{name}: server")
    n = sum(c.nin + c.nout for c in told(client).values())
    fact(f"{name}: {conns} connections, {n} bytes, exact at both ends")


def http(t, exe, name, proto, count, size):
    """net/http: what the two ends wrote and read is the same, and the answers are in it."""
    agents = both_agents(t, name)
    server = serve(t, exe, "https")
    client = t.spawn("client", exe, "get", f"https://10.71.1.1:{PORT}/{size}", count, proto, ns=t.cli, env=STRESS)
    client.wait_line("^done$", 60, "out")
    equal(client.wait(20), 0, "client's exit status")
    got = re.findall(r"^got (\S+) (\d+) (\w+)$", client.out(), re.M)
    body = bytes((i * i >> 5 & 255) ^ (size & 255) for i in range(size))
    want = {"h1": "HTTP/1.1", "h2": "HTTP/2.0"}[proto]
    equal(set(got), {(want, str(size), sha256(body))}, "answers")
    finish(agents, server)
    ends = [flows(capture(t, name, e)) for e in "cs"]
    check(0 < len(ends[0]), "no flows")
    ports = {f.client[1] for f in ends[0]}
    for g in ends[1]:  # the client drops what it has dialled too much; a server's greeting may stand there
        check(g.client[1] in ports or not g.data[0], "seen by the server alone:", g)
    for f in ends[0]:
        g = find_flow(ends[1], f.client[1], PORT)
        equal([sha256(d) for d in f.data], [sha256(d) for d in g.data], f"both ends of port {f.client[1]}")
    if proto == "h1":
        equal(sum(bytes(f.data[1]).count(body) for f in ends[0]), count, "answers in the flows")
        equal(sum(bytes(f.data[0]).count(b"GET /%d HTTP/1.1\r\n" % size) for f in ends[0]), count, "requests")
    else:
        check(all(f.data[0].startswith(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n") for f in ends[0]), "no HTTP/2 preface")
    fact(f"{name}: {count} requests on {len(ends[0])} connections, the same at both ends")


def late(t, exe, name):
    """The agent comes when 40 connections are half way through: all that moves from then on."""
    server = serve(t, exe)
    client = talk(t, exe, 40, 8, 30000)
    client.wait_line("^half way$", 60, "out")
    agents = both_agents(t, name)
    client.say("", "^done$", 60)
    equal(client.wait(20), 0, "client's exit status")
    before = {port_of(a): (int(n), int(m)) for a, n, m in re.findall(r"^half (\S+) (\d+) (\d+)$", client.out(), re.M)}
    equal(len(before), 40, "connections half way")
    time.sleep(1)
    for a in agents:
        equal(a.stop(), 0, "agent's exit status")
    server.stop()
    seen = flows(capture(t, name, "c"), sound=False)
    conns = told(client)
    for port, (n, m) in before.items():
        f = find_flow(seen, port, PORT)
        # the client waits outside of any call: nothing of the second half is missing there
        equal((len(f.data[0]), len(f.data[1])), (conns[port].nout - m, conns[port].nin - n), f"second half of port {port}")
    seen = flows(capture(t, name, "s"), sound=False)
    for port in before:  # the server waits inside Read(): its first bytes belong to a call nobody saw begin
        f = find_flow(seen, port, PORT)
        equal(len(f.data[1]), conns[port].nin - before[port][0], f"server's second half of port {port}")
    fact(f"{name}: attached in mid-connection, 40 of 40 second halves whole")


def churn(t, exe, name):
    """Agents come and go 20 times while all is in motion; the programs must not notice."""
    server = serve(t, exe)
    client = talk(t, exe, 50, 100000, 20000)
    time.sleep(1)
    for i in range(20):
        a = t.alone("-w", t.dir / f"{name}.pcapng", iface="srv0", ns=t.srv)
        time.sleep(0.3)
        equal(a.stop(), 0, "agent's exit status")
        check(server.alive() and client.alive(), f"a program died at turn {i}:", server.err()[-800:], client.err()[-800:])
    check(not server.err() and not client.err(), "complaints:", server.err()[-500:], client.err()[-500:])
    client.kill()
    server.stop()
    fact(f"{name}: 20 agents came and went under load")


def main(t):
    if not go_trees():
        raise Skip("no Go compiler with crypto/tls is installed")
    t.lab(sensor=False)
    with concurrent.futures.ThreadPoolExecutor(1) as builder:  # the compiler works while tests wait
        made = {(tree, kind): builder.submit(go_build, t, tree, kind) for tree in go_trees() for kind in GO_FLAGS}
        for tree in go_trees():
            go = os.path.basename(tree)
            plain = made[tree, "plain"].result()
            raw(t, plain, f"{go} plain", CONNS, 8, 20000)
            raw(t, plain, f"{go} large", 3, 4, 300000)
            http(t, plain, f"{go} h1", "h1", 30, 70000)
            http(t, plain, f"{go} h2", "h2", 30, 70000)
            late(t, plain, f"{go} late")
            for kind in (k for k in GO_FLAGS if k != "plain"):
                raw(t, made[tree, kind].result(), f"{go} {kind}", 10, 4, 20000)
            churn(t, plain, f"{go} churn")


run(main)
