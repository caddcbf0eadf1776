#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""0-RTT data, at both ends: accepted they are mirrored once and first, rejected they are not, and what a
client then says again is mirrored once. Own programs, nginx, openssl s_client and s_server."""
import re
import time

from lib import check, equal, fact, find_flow, flows, losses, run, sha256

TALK = re.compile(r"^port (\d+)\n(?:early (\w+)\n)?sent (\d+ \w+)\ngot (\d+ \w+)$", re.M)
HELD = 64 << 10  # bytes that an agent holds of one connection
# name, the server is another one by then, 0-RTT bytes, what the client does, server writes early, outcome
CASES = (
    ("accepted", False, 3000, "ask", False, "accepted"),
    ("accepted, several writes, early answer", False, 5000, "ask pieces", True, "accepted"),
    ("accepted, nobody asks", False, 3000, "", False, "accepted"),
    ("accepted, more than is held", False, 100000, "ask", False, "accepted"),
    ("rejected, said again", True, 3000, "ask resend", False, "rejected"),
    ("rejected, several writes, said again", True, 5000, "ask resend pieces", False, "rejected"),
    ("rejected, never said again", True, 3000, "ask", False, "rejected"),
    ("rejected, nobody asks, said again", True, 3000, "resend", False, "rejected"),
)


def serve(t, exe, port, n, early_answer):
    s = t.spawn("server", exe, "server", "10.71.1.1", port, *t.cert(), n, *(["answer"] if early_answer else []),
                ns=t.srv)
    s.wait_line("listening", where="out")
    return s


def talk(t, exe, port, session, n, *what):
    c = t.spawn("client", exe, "client", "10.71.1.1", port, session, n, *what, ns=t.cli)
    equal(c.wait(20), 0, f"client: {c.err()}")
    return TALK.findall(c.out())[0]


def one_case(t, exe, i, name, another, n, what, early_answer, outcome):
    """(name, port, server's port, sent by the client, by the server, 0-RTT bytes held by the agent at most)"""
    port, session = 7500 + i, t.dir / f"session{i}"
    first = serve(t, exe, port, 1 if another else 2, early_answer)
    talk(t, exe, port, session, 0)
    second = first
    if another:
        equal(first.wait(10), 0, f"{name}: server: {first.err()}")
        second = serve(t, exe, port, 1, early_answer)
    said = talk(t, exe, port, session, n, *what.split())
    equal(second.wait(10), 0, f"{name}: server: {second.err()}")
    heard = TALK.findall(second.out())[-1]
    equal(said[1], outcome, f"{name}: outcome")
    equal((heard[0], heard[3], heard[2]), (said[0], said[2], said[3]), f"{name}: TLS itself")
    return name, int(said[0]), port, said[2], said[3], n


def mirrored_is_right(end, f, case):
    """What both ends' applications say, except for what the client's agent cannot hold."""
    name, _, _, sent, got, n = case
    if [f"{len(d)} {sha256(bytes(d))}" for d in f.data] == [sent, got] and f.is_sound():
        return True
    if end != "client" or n <= HELD:
        return False
    want = bytes(97 + i * 7 % 26 for i in range(n)) + b"this is the end\n"
    head = len(f.data[0]) - 16
    # the peer acknowledges what is missing, as it did
    return (0 < head <= HELD and f.holes == [n - head, 0] and set(f.faults) <= {"acknowledges what was not sent"}
            and bytes(f.data[0]) == want[:head] + want[-16:])


def s_client(t, port, session, early=None):
    """openssl s_client: its output."""
    args = ["-sess_in", session, "-early_data", early] if early else ["-sess_out", session]
    c = t.spawn("s_client", "openssl", "s_client", "-connect", f"10.71.1.1:{port}", "-tls1_3", *args, ns=t.cli,
                stdin=True)
    c.wait_line(r"Verify return code|Early data was", where="out")
    time.sleep(0.3)
    c.p.stdin.write(b"GET /late HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    c.p.stdin.flush()
    c.wait(20)
    return c.out()


def with_nginx(t):
    """The texts that s_client printed for: first, accepted, rejected."""
    extra = "ssl_early_data on; ssl_session_tickets on; ssl_protocols TLSv1.3;"
    t.www("early", data=b"early bird\n")
    t.www("late", data=b"late bird\n")
    request = t.dir / "request"
    request.write_bytes(b"GET /early HTTP/1.1\r\nHost: x\r\n\r\n")
    session = t.dir / "nginx.session"
    n = t.nginx(extra=extra)
    texts = [s_client(t, 443, session), s_client(t, 443, session, request)]
    n.stop()
    n = t.nginx(extra=extra, name="nginx-again")
    texts.append(s_client(t, 443, session, request))
    n.stop()
    check("Early data was accepted" in texts[1], "nginx did not accept:", texts[1][-300:])
    check("Early data was rejected" in texts[2], "nginx did not reject:", texts[2][-300:])
    return texts


def with_s_server(t):
    """openssl s_server reads 0-RTT data before the handshake is over, and the rest as ever."""
    crt, key = t.cert()
    early, session = t.dir / "early-line", t.dir / "s_server.session"
    early.write_bytes(b"an early line\n")
    s = t.spawn("s_server", "openssl", "s_server", "-early_data", "-accept", "7599", "-cert", crt, "-key", key,
                ns=t.srv, stdin=True)
    s.wait_line("ACCEPT", where="out")
    texts = []
    for e in (None, early):
        c = t.spawn("s_client", "openssl", "s_client", "-connect", "10.71.1.1:7599", "-tls1_3",
                    *(["-sess_in", session, "-early_data", e] if e else ["-sess_out", session]), ns=t.cli, stdin=True)
        c.wait_line(r"Early data was" if e else r"Verify return code", where="out")
        time.sleep(0.3)
        c.say("a late line")
        s.wait_line("a late line", where="out", after=len("".join(texts)))
        c.p.stdin.close()
        equal(c.wait(10), 0, "s_client's status")
        texts.append(s.out())
    check("Early data was accepted" in c.out(), "s_server did not accept:", c.out()[-300:])
    s.stop()


def judge_s_server(seen, end):
    got = [bytes(f.data[0]) for f in seen if f.server[1] == 7599]
    equal(got, [b"a late line\n", b"an early line\na late line\n"], f"{end}: lines to s_server")
    fact(f"{end}'s end: s_server and s_client: accepted once")


def judge_nginx(seen, end):
    got = [(bytes(f.data[0]), bytes(f.data[1])) for f in seen if f.server[1] == 443]
    equal(len(got), 3, f"{end}: connections to nginx")
    early = b"GET /early HTTP/1.1\r\nHost: x\r\n\r\n"
    late = b"GET /late HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    equal([q for q, _ in got], [late, early + late, late], f"{end}: requests")
    equal([(a.count(b"early bird\n"), a.count(b"late bird\n")) for _, a in got], [(0, 1), (1, 1), (0, 1)],
          f"{end}: answers")
    fact(f"{end}'s end: nginx and s_client: accepted once, rejected not at all")


def main(t):
    t.lab(sensor=False)
    exe = t.compile("zero_rtt.c")
    agents = {"server": t.alone("-w", t.dir / "server.pcapng", name="server-agent"),
              "client": t.alone("-w", t.dir / "client.pcapng", "--probes", "records", ns=t.cli, iface="cli0",
                                name="client-agent")}
    cases = [one_case(t, exe, i, *c) for i, c in enumerate(CASES)]
    with_nginx(t)
    with_s_server(t)
    time.sleep(1)
    for a in agents.values():
        t.drain(a)
    wrong = []
    for end in agents:
        seen = flows(t.dir / f"{end}.pcapng", sound=False)
        for c in cases:
            f = find_flow(seen, c[1], c[2])
            (fact if mirrored_is_right(end, f, c) else wrong.append)(
                f"{end}'s end, {c[0]}: {f}, moved {c[3].split()[0]} and {c[4].split()[0]}")
        judge_nginx(seen, end)
        judge_s_server(seen, end)
    check(not wrong, "\n".join(wrong))
    counters = agents["client"].counters()
    equal(counters["flow_bytes_early_rejected"], 3000 + 5000 + 3000 + 3000 + 32, "rejected bytes at the client's end")
    equal(counters["flow_early_overflows"], 1, "connections with more than is held")
    check(0 < counters["flow_bytes_gap"] <= 100000 - HELD + 3000, "gap:", counters["flow_bytes_gap"])
    fact("losses, of the whole host:", losses(*agents.values()))


run(main, needs=["gcc", "nginx"])
