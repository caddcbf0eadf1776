#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""At full speed nothing is missing that nobody counted. nginx and wrk take both cores, agent and collector
share them. Answers of 1 KB, default set-up: each connection's bytes by nginx's own account are in the
capture. Answers of 100 KB may be more than the chain can carry: what does not arrive is counted. The server's
socket takes a whole answer at once, so that no record is sent in part when its connection breaks; one that was made
and not sent is counted."""
import os
import re
import struct
import time

from lib import blocks, check, equal, fact, losses, run

# Each byte of nginx that does not arrive is in one of them; "unbound" are those of memory BIOs.
LOST = re.compile(r"bytes_(lost(?!_unbound)|shed|no_flow)")
CONNECTIONS = 32


def load(t, path, seconds):
    """wrk's requests/s."""
    p = t.spawn("wrk", "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", f"https://10.71.1.1/{path}", ns=t.cli)
    equal(p.wait(seconds + 20), 0, f"wrk's status {p.err()[-300:]}")
    check("Socket errors" not in p.out(), p.out())
    return float(re.search(r"Requests/sec:\s*([\d.]+)", p.out()).group(1))


def favoured(*procs):
    """Their threads come before the load's, unless whoever runs this test has chosen a priority."""
    wanted = os.getpriority(os.PRIO_PROCESS, 0) or -5
    for p in procs:
        equal({os.getpriority(os.PRIO_PROCESS, int(t)) for t in os.listdir(f"/proc/{p.pid}/task")}, {wanted},
              f"{p.name}'s nice values")


def moved(log, since):
    """Bytes that nginx read and wrote by its log, by the client's port."""
    time.sleep(1.5)  # longer than the log is buffered
    out = {}
    for line in log.read_bytes()[since:].decode().splitlines():
        _, port, read, written = line.split()[:4]
        out[int(port)] = out.get(int(port), 0) + int(read) + int(written)
    return out


def arrived(pcap):
    """(payload bytes, bytes missing between them) of a capture's connections to port 443, by the client's
    port. A test of speed: packets are only measured, what is in them other tests look at."""
    got, holes, expected = {}, {}, {}
    for _, frame, _ in blocks(pcap.read_bytes()):
        at = 14 + (frame[14] & 15) * 4
        src, dst, seq, _, off, flags = struct.unpack_from("!HHIIBB", frame, at)
        n = 14 + struct.unpack_from("!H", frame, 16)[0] - at - (off >> 4) * 4
        port = src if dst == 443 else dst
        jump = (seq - expected.get((src, dst), seq)) & 0xffffffff
        if jump:
            holes[port] = holes.get(port, 0) + jump
        expected[src, dst] = (seq + n + bool(flags & 3)) & 0xffffffff  # FIN and SYN count like a byte
        got[port] = got.get(port, 0) + n
    return got, holes


def lost(*procs):
    return sum(v for p in procs for k, v in p.counters().items() if LOST.search(k))


def small_answers(t, log):
    """All of each connection."""
    pcap = t.dir / "out.pcapng"
    col = t.collector("-w", pcap)
    t.enroll()
    agent = t.agent()
    favoured(agent, col)
    rate = load(t, "kb1", 10)
    time.sleep(1)
    t.drain(agent, col)
    sent = moved(log, 0)
    equal(len(sent), CONNECTIONS, "connections in nginx's log")
    got, holes = arrived(pcap)
    pcap.unlink()
    wrong = {p: (n, got.get(p, 0), holes.get(p, 0)) for p, n in sent.items() if got.get(p) != n or p in holes}
    check(not wrong, f"{len(wrong)} connections: moved, mirrored, missing between:", list(wrong.items())[:5],
          losses(agent, col))
    equal(set(got), set(sent), "connections mirrored")
    equal(lost(agent, col), 0, f"lost {losses(agent, col)}")
    fact(f"1 KB, {rate:.0f} requests/s: {sum(sent.values())} bytes of {len(sent)} connections, all mirrored")


def large_answers(t, log, *options):
    """
    All of it together, with what was counted. What the kernel's ring lost is counted for all programs, wrk's
    requests among them; what the agent saw missing inside nginx's connections is counted for those alone,
    without what was lost at their very end. The truth lies between, and mostly the two are one number.
    """
    since = log.stat().st_size
    col = t.collector("-o", "out0")
    agent = t.agent(*options)
    rate = max(load(t, "kb100", 1) for _ in range(4))  # each breaks its connections at its end
    time.sleep(1)
    equal(agent.stop(timeout=30), 0, "agent's exit status")
    equal(col.stop(), 0, "collector's exit status")
    sent = sum(moved(log, since).values())
    counters = agent.counters()
    ring = sum(v for k, v in counters.items() if k.startswith("capture_bytes_lost"))
    gaps = counters.get("flow_bytes_gap", 0)
    got = col.counters()["session_bytes"]
    unsent = counters.get("flow_bytes_unsent_told", 0)
    rest = got + lost(agent, col) - ring - unsent
    fact(f"100 KB{'' if not options else ', ' + ' '.join(options)}, {rate:.0f} requests/s: nginx moved {sent}, mirrored {got} ({got / sent:.1%}), counted as "
         f"lost {lost(agent, col)}", losses(agent, col) or "", f"not sent {counters.get('flow_bytes_unsent', 0)}, "
         f"of what was mirrored or lost {unsent}")
    check(rest + gaps <= sent <= rest + ring, f"moved {sent}, mirrored + counted as lost - not sent {rest + gaps} "
          f"to {rest + ring}")


def main(t):
    t.lab()
    log = t.dir / "access.log"
    t.nginx(log=f"{log} bytes buffer=64k flush=1s", listen=("443 ssl sndbuf=1m",))
    t.www("kb1", 1000)
    t.www("kb100", 100_000)
    small_answers(t, log)
    large_answers(t, log)
    large_answers(t, log, "--ring", "8M")


run(main, needs=["nginx", "wrk"])
