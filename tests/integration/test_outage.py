#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""The collector is away during more traffic than the agent's queue holds: memory stays bounded, whole
flows are dropped and counted, what is mirrored of them is true, later flows are complete."""
import re
import time

from lib import check, equal, fact, flows, losses, run, sha256

SIZE = 6 << 20


def main(t):
    t.lab(sensor=False)
    t.nginx()
    bodies = {f"b{i}": t.www(f"b{i}", SIZE) for i in range(6)}
    relay = t.helper("relay", "relay.py", "127.0.0.1", 4005, "10.71.2.2", 3005, ns=t.srv)
    relay.wait_line("listening", where="out")
    pcap = t.dir / "out.pcapng"
    col = t.collector("-w", pcap)
    t.enroll()
    agent = t.agent("--queue", "1M", "--ring", "4M", host="127.0.0.1:4005")
    t.curl("-o", "/dev/null", "https://10.71.1.1/who?warm")
    time.sleep(1)

    before = agent.rss_kb()
    relay.say("stop", "ok stop")
    peak = 0
    for name in bodies:
        t.curl("-o", "/dev/null", f"https://10.71.1.1/{name}")
        peak = max(peak, agent.rss_kb())
    time.sleep(1)
    peak = max(peak, agent.rss_kb())
    fact(f"agent's memory: {before} KB before, at most {peak} KB while {len(bodies) * SIZE >> 20} MB passed")
    check(peak - before < 12 << 10, f"memory grew by {peak - before} KB with a queue of 1 MB")
    relay.say("go", "ok go")
    time.sleep(6)  # back-off, then what is left of the queue
    later = [f"who?later-{i}" for i in range(5)]
    for u in later:
        t.curl("-o", "/dev/null", f"https://10.71.1.1/{u}")
    small = t.www("small", 400000)  # fits the queue: nothing may be missing
    t.curl("-o", "/dev/null", "https://10.71.1.1/small")
    time.sleep(2)
    t.drain(agent, col)

    lost = losses(agent)
    check(any(re.search("drop|shed", k) for k in lost), "nothing counted as dropped:", agent.counters())
    fact("counted:", lost)
    seen = flows(pcap)
    by_url = {}
    for f in seen:
        m = re.match(rb"GET /(\S+) ", bytes(f.data[0]))
        check(m, f"a flow that does not begin with its request: {f}")
        by_url[m.group(1).decode()] = f
    for u in ["who?warm"] + later + ["small"]:
        check(u in by_url, f"{u} is missing; there are {sorted(by_url)}")
        equal(by_url[u].end, "fin", f"{u}: end")
    got = bytes(by_url["small"].data[1]).split(b"\r\n\r\n", 1)[1]
    equal(sha256(got), sha256(small), "a body after the outage")
    whole = 0
    for name, body in bodies.items():
        f = by_url.get(name)
        part = bytes(f.data[1]).partition(b"\r\n\r\n")[2] if f else b""
        check(body.startswith(part), f"{name}: mirrored bytes are not its beginning")
        whole += len(part) == SIZE
        check(f is None or f.end != "open", f"{name}: left open")
    check(whole < len(bodies), "everything passed: the queue was never full")
    fact(f"{len(bodies)} bodies during the outage: {whole} whole, the rest dropped; all later flows complete")


run(main, needs=["nginx", "curl"])
