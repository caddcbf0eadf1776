#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""An output in trouble does not take the others with it: an interface that is deleted while in use, a
file system that fills up. Said once, counted, and the run still ends with 0."""
import re
import time

from lib import check, equal, fact, flows, losses, run, settle, sh


def main(t):
    t.lab()
    t.nginx()
    t.www("half-mb", 500000)
    small = t.dir / "small"
    small.mkdir()
    sh("mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", small)
    t.cleanup(sh, "umount", small)
    t.link(t.col, "out1", [], t.mon, "mon1", [])
    pcap = t.dir / "good.pcapng"
    agent, col = t.pair("-o", "out0", "-o", "out1", "-w", small / "full.pcapng", "-w", pcap)
    tap = t.spawn("tcpdump", "tcpdump", "-i", "mon1", "-w", t.dir / "mon1.pcap", "-U",
                  "-B", "65536", ns=t.mon)
    tap.wait_line("listening on")

    t.curl("-o", "/dev/null", "https://10.71.1.1/who?first")
    settle(pcap, lambda s: any(b"who?first" in f.data[0] for f in s))
    mark = len(col.err())
    sh("ip", "-n", t.col, "link", "del", "out0")
    for i in range(10):
        t.curl("-o", "/dev/null", f"https://10.71.1.1/half-mb?{i}")
    t.curl("-o", "/dev/null", "https://10.71.1.1/who?last")
    settle(pcap, lambda s: any(b"who?last" in f.data[0] for f in s))
    time.sleep(1)
    check(col.alive(), "the collector ended")
    said = [x for x in col.err()[mark:].splitlines() if "counter" not in x]
    check(any("out0" in x for x in said), "no line names out0:", said)
    check(any("full.pcapng" in x for x in said), "no line names full.pcapng:", said)
    check(len(said) <= 12, f"{len(said)} lines about two outputs:", said[:12])
    fact("said:\n  " + "\n  ".join(said))
    t.drain(agent, col)
    time.sleep(2)  # longer than libpcap holds packets back
    tap.stop()
    check(re.search(r"^0 packets dropped by kernel", tap.err(), re.M), "tcpdump lost packets:", tap.err())
    lost = losses(col)
    check(lost, "the lost packets were not counted")
    fact("counted:", lost)

    want = [f"GET {u} ".encode() for u in
            ["/who?first"] + [f"/half-mb?{i}" for i in range(10)] + ["/who?last"]]
    for name, seen in (("good file", flows(pcap)), ("second interface", flows(t.dir / "mon1.pcap"))):
        asked = [bytes(f.data[0]) for f in seen]
        equal([sum(a.startswith(w) for a in asked) for w in want], [1] * 12, f"{name}: requests")
        equal(sum(len(f.data[1]) > 500000 for f in seen), 10, f"{name}: whole bodies")
    cut = flows(small / "full.pcapng", sound=False)
    check(cut, "the full file is not readable")
    fact(f"good file and second interface whole; the full file reads up to its end: {len(cut)} flows")


run(main, needs=["nginx", "curl", "tcpdump"])
