#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""A mixed run as Wireshark's TCP analysis sees it: checksums good, nothing lost, repeated, out of order
or beyond a window; and the same analysis does object when one packet is taken out."""
import struct
import time

from lib import blocks, check, equal, fact, flows, run, sh

COMPLAINT = ("(tcp.analysis.flags && !tcp.analysis.window_update) || tcp.checksum.status != \"Good\" || ip.checksum.status == \"Bad\""
             " || (_ws.expert.severity >= 6291456 && tcp.flags.reset == 0 && !http)")  # 6291456: warning


def complaints(path):
    return sh("tshark", "-r", path, "-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE",
              "-o", "tcp.analyze_sequence_numbers:TRUE", "-o", "http.tls.port:0", "-Y", COMPLAINT, "-T", "fields", "-e",
              "frame.number", "-e", "tcp.stream", "-e", "_ws.expert.message",
              timeout=120).strip().splitlines()


def without_one(src, dst):
    """A classic pcap of the same packets but for one full data segment in the middle."""
    packets = list(blocks(src.read_bytes()))
    big = [i for i, (_, f, _) in enumerate(packets) if len(f) > 1400]
    del packets[big[len(big) // 2]]
    with open(dst, "wb") as out:
        out.write(struct.pack("<IHHIIII", 0xa1b2c3d4, 2, 4, 0, 0, 262144, 1))
        for ts, frame, _ in packets:
            out.write(struct.pack("<IIII", int(ts), int(ts % 1 * 1e6), len(frame), len(frame)) + frame)


def main(t):
    t.lab(sensor=False)
    t.nginx()
    t.www("mb", 2 << 20)
    (t.dir / "upload").write_bytes(b"u" * 1500000)
    pcap = t.dir / "out.pcapng"
    agent, col = t.pair("-w", pcap)
    for host in ("10.71.1.1", "[fd71:1::1]"):
        t.curl("-o", "/dev/null", f"https://{host}/mb")
        t.curl("-o", "/dev/null", "--data-binary", f"@{t.dir}/upload", f"https://{host}/post")
        t.curl("-o", "/dev/null", f"https://{host}/who?[1-50]")
    for how in ("close", "fin", "rst"):
        c = t.helper("client", "client.py", "10.71.1.1", 443, ns=t.cli)
        c.wait_line("connected", where="out")
        c.say("get /mb", "answer 200")
        c.say("post /post 70000", "answer 200")
        time.sleep(0.1)
        c.say("get /who", "answer 200")
        c.say(how, f"done {how}")
    p = t.helper("many", "many.py", "10.71.1.1", 443, 100, 3, "sockets", ns=t.cli)
    equal(p.wait(60), 0, "the crowd's status")
    time.sleep(1)
    t.drain(agent, col)

    seen = flows(pcap)
    equal(len(seen), 109, "flows")
    packets = sum(len(f.packets) for f in seen)
    got = complaints(pcap)
    equal(got[:5], [], f"tshark's complaints about {packets} packets ({len(got)} in all)")
    http = sh("tshark", "-r", pcap, "-Y", "http.request", "-T", "fields", "-e", "http.request.uri",
              timeout=120).split()
    equal(len(http), 2 * 52 + 9 + 300, "requests that tshark reads")
    without_one(pcap, t.dir / "hole.pcap")
    check(complaints(t.dir / "hole.pcap"), "tshark did not miss the packet that was taken out")
    fact(f"{len(seen)} flows, {packets} packets: no complaint of tshark")


run(main, needs=["nginx", "curl", "tshark"])
