#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""-I by interface, -I any, a pcap filter; and the tunnel itself is never mirrored, though agent and
collector share a host and -I any sees everything."""
import os
import signal
import time

from lib import check, equal, fact, flows, losses, run


def main(t):
    t.lab(sensor=False)
    t.link(t.srv, "srv1", ["10.71.3.1/24", "fd71:3::1/64"], t.cli, "cli1", ["10.71.3.2/24", "fd71:3::2/64"])
    # a port and a loopback network of this run alone: -I any sees other programs of the host too
    port = 20000 + os.getpid() % 20000
    net = f"127.{os.getpid() >> 8 & 127 | 1}.{os.getpid() & 255}"
    t.nginx(listen=(f"{port} ssl", f"[::]:{port} ssl", "8443 ssl", f"{net}.1:443 ssl"))
    outs = {
        "srv0": t.alone("-w", t.dir / "srv0.pcapng", name="srv0"),
        "srv1": t.alone("-w", t.dir / "srv1.pcapng", iface="srv1", name="srv1"),
        "lo": t.alone("-w", t.dir / "lo.pcapng", iface="lo", name="lo"),
        "any": t.alone("-w", t.dir / "any.pcapng", "port", port, iface="any", name="any"),
        "filter": t.alone("-w", t.dir / "filter.pcapng",
                          f"port {port} and not net 10.71.3.0/24 and not ip6", iface="any", name="filter"),
        "none": t.alone("-w", t.dir / "none.pcapng", "udp", name="none"),
    }
    urls = {"a": f"10.71.1.1:{port}", "b": f"[fd71:1::1]:{port}", "c": f"10.71.3.1:{port}",
            "d": f"[fd71:3::1]:{port}", "e": "10.71.1.1:8443"}
    for tag, host in urls.items():
        t.curl("-o", "/dev/null", f"https://{host}/who?{tag}")
    t.curl("-o", "/dev/null", f"https://{net}.1/who?f", ns=t.srv)
    time.sleep(1)
    want = {"srv0": "abe", "srv1": "cd", "lo": "f", "any": "abcd", "filter": "a", "none": ""}
    wrong = []
    for p in outs.values():
        p.kick(signal.SIGINT)  # all at once: taking probes off takes its time
    for name, p in outs.items():
        equal(p.wait(60), 0, f"{name}: exit status")
        seen = flows(t.dir / f"{name}.pcapng")
        got = "".join(sorted(bytes(f.data[0]).split(b"who?")[1][:1].decode() for f in seen))
        if got != want[name]:
            wrong.append(f"{name}: connections {got!r}, want {want[name]!r}")
    check(not wrong, "; ".join(wrong))
    fact("by interface and by filter:", want)

    # one host, tunnel over lo, everything of this network wanted
    col = t.collector("-w", t.dir / "self.pcapng", ns=t.srv)
    t.enroll(f"{net}.2")
    agent = t.agent(f"net {net}.0/24", iface="any", host=f"{net}.2")
    for i in range(20):
        t.curl("-o", "/dev/null", f"https://{net}.1/who?{i}", ns=t.srv)
    time.sleep(1.5)
    size = (t.dir / "self.pcapng").stat().st_size
    time.sleep(3)
    equal((t.dir / "self.pcapng").stat().st_size, size, "size of the output while nothing is asked")
    t.drain(agent, col)
    seen = flows(t.dir / "self.pcapng")
    equal([f for f in seen if 3005 in (f.server[1], f.client[1])], [], "mirrored tunnels")
    equal(len(seen), 20, "flows for 20 connections")
    lost = {k: v for k, v in losses(agent, col).items() if "unbound" not in k}  # of the whole host
    equal(lost, {}, "losses")
    fact(f"agent and collector on one host: 20 flows, {size} bytes, no growth")


run(main, needs=["nginx", "curl"])
