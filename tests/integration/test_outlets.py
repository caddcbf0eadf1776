#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""Each output gets packets as it wants them: tag, MTU, addresses and ports of its own, or large frames that the
kernel cuts or hands over; Suricata believes them.
Connections are shared out among interfaces, and one that goes away takes no others with it."""
import re
import time

from lib import blocks, check, equal, eve, eve_stats, fact, flows, parse, run, settle, sh, stream_event_rules

MAC = "02:aa:bb:cc:dd:01"
LOOK = f"vlan=7,mtu=1000,port-map=443:80,src-mac={MAC}"
RULE = ('alert http any any -> any 80 (msg:"page"; flow:established,to_server; http.uri; content:"/page"; '
        'sid:1; rev:1;)\n')


def listen(t, iface):
    p = t.spawn(f"tcpdump-{iface}", "tcpdump", "-i", iface, "-w", t.dir / f"{iface}.pcap", "-U", "-B", "65536", ns=t.mon)
    p.wait_line("listening on")
    return p


def asked(seen):
    return sorted(bytes(f.data[0]).split()[1].decode() for f in seen)


def frames(path):
    return [frame for _, frame, _ in blocks(path.read_bytes()) if parse(0, frame, "")]


def main(t):
    t.lab()
    t.nginx()
    t.www("page", 30000)
    for i in (0, 1):
        t.link(t.col, f"fan{i}", [], t.mon, f"fanm{i}", [])
    for i in ("gso", "big"):
        t.link(t.col, f"{i}0", [], t.mon, f"{i}m0", [])
    plain, look = t.dir / "plain.pcapng", t.dir / "look.pcapng"
    agent, col = t.pair("-w", plain, "-o", f"out0,{LOOK},gso=no", "-o", "fan0|fan1", "-o", "gso0",
                        "-o", "big0,gso,vlan=9", "-w", f"{look},{LOOK}")
    taps = [listen(t, i) for i in ("mon0", "fanm0", "fanm1", "gsom0", "bigm0")]
    live, log = t.suricata(t.mon, "bigm0", RULE.replace("80", "443") + stream_event_rules(), "default-packet-size=65600")
    urls = [f"/page?{i:02}" for i in range(16)]
    for u in urls:
        t.curl("-o", "/dev/null", f"https://10.71.1.1{u}")
    settle(plain, lambda s: len([f for f in s if f.end == "fin"]) == 16)
    sh("ip", "-n", t.col, "link", "set", "fan0", "down")
    for u in urls:
        t.curl("-o", "/dev/null", f"https://10.71.1.1{u}-down")
    settle(plain, lambda s: len([f for f in s if f.end == "fin"]) == 32)
    t.drain(agent, col)
    time.sleep(2)  # longer than libpcap holds packets back
    equal(live.stop(), 0, "Suricata's exit status")
    for p in taps:
        p.stop()
        check(re.search(r"^0 packets dropped by kernel", p.err(), re.M), "tcpdump lost packets:", p.err())

    both = sorted(urls + [f"{u}-down" for u in urls])
    usual, own = flows(plain), flows(look)
    equal(asked(usual), both, "requests in the plain file")
    equal(asked(own), both, "requests in the other file")
    equal({f.server[1] for f in usual} | {f.server[1] + 363 for f in own}, {443}, "servers' ports")
    check(all(len(f.data[1]) > 30000 for f in usual + own), "an answer is not whole")
    sent = frames(look)
    equal({(x[6:12].hex(":"), x[12:16].hex(), len(x) <= 1018) for x in sent}, {(MAC, "81000007", True)},
          "what all frames have in common")
    check(any(len(x) == 1018 for x in sent), "no frame of the full size")
    check(sorted(frames(t.dir / "mon0.pcap")) == sorted(sent), "interface and file of the same look differ")
    check(b" port=443" in look.read_bytes() and b" port=443" not in plain.read_bytes(), "ports in comments")
    fact(f"{len(sent)} frames of 1000 bytes with tag, own address and port 80, beside usual ones")

    got = [asked(flows(t.dir / f"fanm{i}.pcap", sound=False)) for i in (0, 1)]
    up = [[u for u in g if "down" not in u] for g in got]
    equal(sorted(up[0] + up[1]), urls, "requests on both interfaces together")
    check(up[0] and up[1], "all connections on one of them:", [len(u) for u in up])
    check(all("down" not in u for u in got[0]), "something on the interface that was down")
    lost = 16 - len([u for u in got[1] if "down" in u])
    equal(col.counters()["sink_iface_flows_cut"], lost, "connections counted as cut")
    flows(t.dir / "fanm1.pcap")  # each of them faultless
    fact(f"shared out {len(up[0])} to {len(up[1])}; {lost} connections lost with their interface, no other")

    cut, whole = t.dir / "gsom0.pcap", t.dir / "bigm0.pcap"
    equal(asked(flows(cut)), both, "requests in large frames that were cut")
    check(1400 < max(map(len, frames(cut))) <= 1514, "frames were not cut")
    big = flows(whole, sound=False)  # their checksums are not complete
    equal(asked(big), both, "requests in large frames")
    equal([f for f in big if set(f.faults) - {"TCP checksum"} or any(f.holes) or any(f.repeats)], [], "faulty connections")
    check(max(map(len, frames(whole))) > 15000, "no large frame arrived")
    usual = [[bytes(d) for d in f.data] for f in usual]
    equal([[bytes(d) for d in f.data] for f in flows(cut)], usual, "bytes in frames that were cut")
    equal([[bytes(d) for d in f.data] for f in big], usual, "bytes in large frames")
    fact(f"{len(frames(whole))} large frames became {len(frames(cut))}, of the same bytes")

    alerts = [r["alert"]["signature_id"] for r in t.suricata_read(cut, RULE.replace("80", "443") + stream_event_rules())
              if r["event_type"] == "alert"]
    equal(alerts, [1] * 32, "Suricata's alerts on frames that were cut")
    equal([r["alert"]["signature_id"] for r in eve(log) if r["event_type"] == "alert"], [1] * 32,
          "live Suricata's alerts on large frames")
    equal(eve_stats(eve(log), "capture", "kernel_drops"), 0, "packets that Suricata did not take")
    seen = t.suricata_read(look, RULE + stream_event_rules())
    alerts = [r["alert"]["signature_id"] for r in seen if r["event_type"] == "alert"]
    equal(alerts, [1] * 32, "Suricata's alerts")


run(main, needs=["nginx", "curl", "tcpdump", "suricata", "ethtool"])
