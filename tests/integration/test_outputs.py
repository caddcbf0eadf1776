#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""One run, many outputs: files that rotate, PCAP over IP to tshark, to tcpdump and to a receiver that is
called, VXLAN over IPv4 and GENEVE over IPv6. All show the same connections, byte by byte; Suricata reads
the tunnels; a path whose MTU shrinks gets smaller segments; what a narrow one drops is counted, and ends only
its connections in that tunnel; SIGHUP begins a moved file anew."""
import os
import signal
import struct
import time

from lib import (blocks, check, equal, fact, flows, losses, parse, run, settle, sh, tcp_option, until)

COMPLAINT = ("(tcp.analysis.flags && !tcp.analysis.window_update) || tcp.checksum.status == \"Bad\""
             " || ip.checksum.status == \"Bad\"")


def stay(p):
    """Its threads on one processor: what one sends on two overtakes itself on a veth pair."""
    for thread in os.listdir(f"/proc/{p.pid}/task"):
        os.sched_setaffinity(int(thread), {min(os.sched_getaffinity(0))})


def inner(path, port, head):
    """What the tunnel at UDP `port` carries: (time, frame, outer source port, outer length)."""
    for ts, frame, _ in blocks(path.read_bytes()):
        kind = struct.unpack_from("!H", frame, 12)[0]
        if kind == 0x0800 and frame[23] == 17:
            equal(struct.unpack_from("!H", frame, 20)[0] & 0x3fff, 0, "outer fragments")
            check(frame[20] & 0x40, "outer packet without DF")
            udp, length = 34, struct.unpack_from("!H", frame, 16)[0]
        elif kind == 0x86dd and frame[20] == 17:
            udp, length = 54, struct.unpack_from("!H", frame, 18)[0] + 40
        else:
            continue
        sport, dport = struct.unpack_from("!HH", frame, udp)
        if dport == port:
            equal(frame[udp + 8:udp + 16].hex(), head, "tunnel header")
            yield ts, frame[udp + 16:], sport, length


def overtook(p, q):
    """p was seen first and tells that q was sent before it: it acknowledges q, or is what follows q."""
    if not (q.payload or q.flags & 3):  # SYN, FIN
        return False
    if (p.src, p.sport) == (q.src, q.sport):
        return (p.seq - q.seq) % 2**32 in range(1, 2**31)
    return p.flags & 16 and (p.ack - q.seq) % 2**32 in range(1, 2**31)


def in_order(frames):
    """(time, frame, …) as they were sent: on a veth pair behind a queue, what two processors bring along may
    swap places within a millisecond."""
    frames, seen = list(frames), {}
    for i, (ts, frame, *_) in enumerate(frames):
        p = parse(ts, frame, "")
        mine = seen.setdefault(tuple(sorted([(p.src, p.sport), (p.dst, p.dport)])), [])
        mine.append((i, p))
        for k in range(len(mine) - 1, 0, -1):
            (a, before), (b, now) = mine[k - 1], mine[k]
            if frames[b][0] - frames[a][0] > 0.001 or not overtook(before, now):
                break
            (ta, *x), (tb, *y) = frames[a], frames[b]
            frames[a], frames[b] = (ta, *y), (tb, *x)
            mine[k - 1], mine[k] = (a, now), (b, before)
    return frames


def unwrap(t, path, port, head, mtu):
    """The same as a file; each connection has one source port, and not all the same."""
    plain, ports = t.dir / f"inner-{port}.pcap", {}
    with open(plain, "wb") as out:
        out.write(struct.pack("<IHHIIII", 0xa1b2c3d4, 2, 4, 0, 0, 262144, 1))
        for ts, frame, sport, length in in_order(inner(path, port, head)):
            check(length <= mtu, f"outer packet of {length} bytes")
            p = parse(ts, frame, "")
            ports.setdefault(tuple(sorted([(p.src, p.sport), (p.dst, p.dport)])), set()).add(sport)
            out.write(struct.pack("<IIII", int(ts), int(ts % 1 * 1e6), len(frame), len(frame)) + frame)
    check(all(len(s) == 1 for s in ports.values()), "a connection from several source ports", ports)
    check(len(ports) < 8 or len(set.union(*ports.values())) > 1, "all connections from one source port")
    return plain


def told(all_flows):
    """What was said, whatever packets showed it."""
    return sorted((f.client, f.server, bytes(f.data[0]), bytes(f.data[1])) for f in all_flows)


def segment_sizes(path):
    return {struct.unpack("!H", tcp_option(p.opts, 2))[0] for f in flows(path) for _, p in f.packets if p.flags & 2}


URIS = [u for what in ("first", "second") for u in (*[f"/who?{what}{i}" for i in range(4)], f"/big?{what}")]


def main(t):
    t.lab(sensor=False)
    t.mon = t.ns("m")
    t.link(t.col, "vx0", ["10.71.3.1/24", "fd71:3::1/64"], t.mon, "vx1", ["10.71.3.2/24", "fd71:3::2/64"])
    t.nginx()
    t.www("big", 300000)
    spool = t.dir / "spool"
    spool.mkdir()
    tap = t.spawn("tcpdump", "tcpdump", "-i", "vx1", "-w", t.dir / "vx1.pcap", "-U", "-B", "65536", "udp", ns=t.mon)
    tap.wait_line("listening on")
    with open(t.dir / "called.pcap", "wb") as f:
        nc = t.spawn("receiver", "sh", "-c", f"exec nc -l 57013 > {t.dir}/called.pcap", ns=t.mon)
    del f
    agent, col = t.pair("-w", t.dir / "all.pcapng", "-w", t.dir / "moved.pcapng",
                        "-w", f"{spool}/tls.pcapng,rotate-size=64K,keep-files=200",
                        "--pcap-over-ip", "57012", "--pcap-over-ip-to", "10.71.3.2:57013",
                        "--vxlan", "10.71.3.2,vni=7", "--geneve", "[fd71:3::2],vni=1193046")
    stay(col)
    shark = t.spawn("tshark", "tshark", "-i", "TCP@127.0.0.1:57012", "-w", t.dir / "shark.pcapng", ns=t.col)
    dump = t.spawn("nc", "sh", "-c", f"nc 127.0.0.1 57012 | tcpdump -r - -U -w {t.dir}/dump.pcap", ns=t.col)
    until(lambda: len([x for x in col.err().splitlines() if " reads" in x]) == 3, 15, "three readers")

    def ask(what):
        for host in ("10.71.1.1", "[fd71:1::1]"):
            for i in range(4):
                t.curl("-o", "/dev/null", f"https://{host}/who?{what}{i}")
            t.curl("-o", "/dev/null", f"https://{host}/big?{what}")

    def arrived(what):
        settle(t.dir / "all.pcapng",
               lambda s: sum(f"/big?{what} ".encode() in f.data[0] and f.end != "open" for f in s) == 2)

    began = time.time()
    ask("first")
    arrived("first")
    (t.dir / "moved.pcapng").rename(t.dir / "moved.1")
    col.kick(signal.SIGHUP)
    # a path that carries less, noticed within its second
    sh("ip", "-n", t.col, "link", "set", "vx0", "mtu", 1400)
    time.sleep(2.2)
    ask("second")
    arrived("second")
    time.sleep(0.5)
    equal(losses(col), {}, "losses")
    # a way that takes only some of it: counted, ended, and nobody else's trouble
    sh("tc", "-n", t.col, "qdisc", "add", "dev", "vx0", "root", "tbf", "rate", "2mbit", "burst", "4k", "limit", "9k")
    ask("third")
    arrived("third")
    time.sleep(0.5)  # what has been queued is on its way: deleting the queue would drop it without a word
    sh("tc", "-n", t.col, "qdisc", "del", "dev", "vx0", "root")
    time.sleep(1.5)
    t.drain(agent, col)
    lost = losses(col)
    check(lost.get("collector:sink_encap_lost_nobufs") and all("encap" in k for k in lost), "losses:", lost)
    cut = col.counters()["sink_encap_flows_cut"]
    fact("a narrow way:", lost, f"connections cut: {cut}")
    for p in (shark, dump, nc):
        p.wait(10)
    time.sleep(1)
    tap.stop()

    want = flows(t.dir / "all.pcapng")
    equal(len(want), 30, "connections")
    times = [p.ts for f in want for _, p in f.packets]  # none runs backwards in a connection: flows() has looked
    check(began - 0.5 < min(times) and max(times) < time.time(), "not the time of the capture:", min(times), began)
    said = told(want)
    for name in ("shark.pcapng", "dump.pcap", "called.pcap"):
        equal(told(flows(t.dir / name)) == said, True, f"{name} tells the same")
    fact("tshark, tcpdump and the receiver that was called: the same 30 connections")

    parts = sorted(spool.iterdir())
    check(len(parts) > 10 and all(p.name.endswith("Z.pcapng") and p.stat().st_size <= 65536 for p in parts),
          "finished files:", [(p.name, p.stat().st_size) for p in parts])
    whole = [frame for p in parts for _, frame, _ in blocks(p.read_bytes())]
    equal(whole == [frame for _, frame, _ in blocks((t.dir / "all.pcapng").read_bytes())], True,
          f"{len(parts)} files hold the packets of the whole one, in order")
    sh("tshark", "-r", parts[len(parts) // 2], "-q", "-z", "io,stat,0")
    fact(f"{len(parts)} rotated files, each readable, together all {len(whole)} packets in order")

    moved, after = t.dir / "moved.1", t.dir / "moved.pcapng"
    equal(told(flows(moved, sound=False)) != [] and
          [f for _, f, _ in blocks(moved.read_bytes())] + [f for _, f, _ in blocks(after.read_bytes())] == whole,
          True, "the moved file and its successor hold all")

    vxlan = unwrap(t, t.dir / "vx1.pcap", 4789, "0800000000000700", 1500)
    geneve = unwrap(t, t.dir / "vx1.pcap", 6081, "0000655812345600", 1500)
    narrow = {x[0] for x in said if b"third" in x[2]}
    for name, plain in (("VXLAN", vxlan), ("GENEVE", geneve)):
        seen = flows(plain)  # each sound: also those that were cut are whole up to their end
        equal([x for x in told(seen) if x[0] not in narrow] == [x for x in said if x[0] not in narrow], True,
              f"{name} tells the same")
        cut -= sum(f.rsts != [] and f.nxt[0] is not None for f in seen)
        equal(sh("tshark", "-r", plain, "-o", "tcp.check_checksum:TRUE", "-Y", COMPLAINT).splitlines()[:3], [],
              f"tshark's complaints about {name}")
    check(cut >= 0, "more connections end with RST than were cut")
    equal(segment_sizes(vxlan), {1410, 1390, 1310, 1290}, "MSS in VXLAN: less 50, IPv4 and IPv6 inside, two MTUs")
    equal(segment_sizes(geneve), {1390, 1370, 1290, 1270}, "MSS in GENEVE over IPv6: less 70")
    # each by itself: the same connection twice would be a repetition to both readers
    for name, port, field, vni in (("VXLAN", 4789, "vxlan.vni", "7"), ("GENEVE", 6081, "geneve.vni", "0x123456")):
        one = t.dir / f"outer-{port}.pcap"
        sh("tcpdump", "-r", t.dir / "vx1.pcap", "-w", one, f"udp dst port {port}")
        rows = sh("tshark", "-r", one, "-o", "http.tls.port:0", "-d", "tcp.port==443,http", "-Y", "http.request",
                  "-T", "fields", "-e", field, "-e", "http.request.uri", timeout=60).splitlines()
        rows = [x for x in rows if "third" not in x]
        equal(sorted(rows), sorted(f"{vni}\t{u}" for u in URIS * 2), f"tshark's requests in {name}")
    # both in one run of Suricata, for it needs seconds to start: the second as if it had come later
    later, both = t.dir / "later.pcap", t.dir / "both.pcap"
    sh("editcap", "-F", "pcap", "-t", 1000, t.dir / "outer-6081.pcap", later)
    sh("mergecap", "-F", "pcap", "-w", both, t.dir / "outer-4789.pcap", later)
    seen = [(r["http"]["url"], ":" in r["src_ip"]) for r in t.suricata_read(both, "") if r.get("event_type") == "http"]
    seen = [x for x in seen if "third" not in x[0]]
    equal(sorted(seen), sorted((u, v6) for u in URIS * 2 for v6 in (False, True)), "Suricata's events in both tunnels")
    fact("VXLAN and GENEVE: the same connections, decoded by tshark and by Suricata; segments follow the path")


run(main, needs=["nginx", "curl", "tc", "tcpdump", "tshark", "editcap", "mergecap", "nc", "suricata"])
