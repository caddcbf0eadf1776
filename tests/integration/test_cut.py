#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""The tunnel is cut ten times during transfers: no byte is lost, none comes twice."""
import time

from lib import check, equal, fact, find_flow, flows, losses, run, sha256

SIZE = 24 << 20
CUTS = 10


def main(t):
    t.lab(sensor=False)
    t.nginx()
    body = t.www("big", SIZE)
    relay = t.helper("relay", "relay.py", "127.0.0.1", 4005, "10.71.2.2", 3005, ns=t.srv)
    relay.wait_line("listening", where="out")
    col = t.collector("-w", t.dir / "out.pcapng")
    t.enroll()
    agent = t.agent(host="127.0.0.1:4005")

    down = t.spawn("curl", "curl", "-sSk", "--http1.1", "--limit-rate", "2M", "-o", "/dev/null",
                   "-w", "%{local_port}\n", "https://10.71.1.1/big", ns=t.cli)
    up = t.helper("client", "client.py", "10.71.1.1", 443, ns=t.cli)
    up_port = int(up.wait_line(r"connected \S+ (\d+)", where="out").group(1))
    cut_links, n = 0, 0
    for n in range(CUTS):
        time.sleep(0.7)
        m = relay.say("cut", r"ok cut (\d+) (\d+)")
        cut_links += int(m.group(1))
        up.say(f"post /post {100000 + n}", "answer 200")
    check(down.alive(), "the transfer was over before the last cut")
    equal(down.wait(60), 0, "curl's status")
    check(cut_links >= CUTS, f"only {cut_links} links were there to be cut")
    up.say("close", "done close")
    time.sleep(3)
    equal(agent.stop(timeout=30), 0, "agent's exit status")
    equal(col.stop(), 0, "collector's exit status")
    fact("losses:", losses(agent, col) or "none")

    seen = flows(t.dir / "out.pcapng")
    equal(len(seen), 2, "flows")
    f = find_flow(seen, int(down.out()), 443)
    got = bytes(f.data[1]).split(b"\r\n\r\n", 1)[1]
    equal((len(got), sha256(got)), (SIZE, sha256(body)), "the body")
    equal(f.end, "fin", "the transfer's end")
    f = find_flow(seen, up_port, 443)
    equal(bytes(f.data[1]).count(b"HTTP/1.1 200"), CUTS, "answers to the uploads")
    equal(bytes(f.data[0]).count(b"POST /post "), CUTS, "uploads")
    equal(f.end, "fin", "the uploads' end")
    fact(f"{cut_links} links cut, {SIZE} bytes down and {len(f.data[0])} up, each once")


run(main, needs=["nginx", "curl"])
