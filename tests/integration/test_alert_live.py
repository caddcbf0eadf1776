#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""nginx and a client, agent, collector and Suricata in four namespaces: the alert is there within two
seconds of the request although the connection stays open, and nothing about TCP looks forged."""
import time

from lib import EVIL_RULE, check, equal, eve, eve_stats, fact, read, run, stream_event_rules, until

LIMIT_S = 2.0


def main(t):
    t.lab()
    t.nginx()
    sur, logdir = t.suricata(t.mon, "mon0", EVIL_RULE + stream_event_rules())
    agent, col = t.pair("-o", "out0")

    client = t.helper("client", "client.py", "10.71.1.1", 443, ns=t.cli)
    port = int(client.wait_line(r"connected \S+ (\d+)", where="out").group(1))
    client.say("get /good", "answer 404")
    asked = time.monotonic()
    client.say("get /evil?x=1", "answer 200")

    def alerts():
        return [r for r in eve(logdir) if r.get("event_type") == "alert"
                and r["alert"]["signature_id"] == 9000001]
    got = until(alerts, 20, "an alert in eve.json")
    waited = time.monotonic() - asked
    fact(f"alert after {waited * 1000:.0f} ms, connection still open")
    check(waited <= LIMIT_S, f"alert took {waited:.2f} s")
    check("evil uri" in read(logdir / "fast.log"), "no alert in fast.log")
    a = got[0]
    equal((a["src_ip"], a["src_port"], a["dest_ip"], a["dest_port"]),
          ("10.71.1.2", port, "10.71.1.1", 443), "the alert's tuple")
    equal(a["http"]["url"], "/evil?x=1", "the alert's url")

    client.say("close", "done close")
    time.sleep(1)
    t.drain(agent, col)
    time.sleep(1)
    sur.stop(timeout=60)
    records = eve(logdir)
    equal(len(alerts()), 1, "alerts for one request")
    flow = [r for r in records if r.get("event_type") == "flow" and r.get("src_port") == port]
    equal(len(flow), 1, "flow records")
    equal(flow[0]["flow"]["state"], "closed", "the flow's state")
    equal(flow[0]["app_proto"], "http", "the flow's protocol")
    check(eve_stats(records, "tcp", "sessions") >= 1, "no statistics")
    equal(eve_stats(records, "tcp", "invalid_checksum"), 0, "tcp.invalid_checksum")
    equal(eve_stats(records, "tcp", "reassembly_gap"), 0, "tcp.reassembly_gap")
    equal(eve_stats(records, "decoder", "invalid"), 0, "decoder.invalid")
    strange = [r["alert"]["signature"] for r in records if r.get("event_type") == "alert"
               and r["alert"]["signature_id"] != 9000001]
    equal(strange, [], "stream events")
    http = [r for r in records if r.get("event_type") == "http"]
    equal([(r["http"]["url"], r["http"]["status"]) for r in http],
          [("/good", 404), ("/evil?x=1", 200)], "http records")


run(main, needs=["nginx", "suricata"])
