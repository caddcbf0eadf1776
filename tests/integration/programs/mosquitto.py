#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""Mosquitto: broker that reads single bytes, mosquitto_sub and mosquitto_pub."""
from role import SRV, equal, pattern, roles

PORT = 8883


def play(r):
    crt, key = r.t.cert()
    conf = r.dir / "mosquitto.conf"
    conf.write_text(f"listener {PORT} {SRV}\nuser nobody\nallow_anonymous true\npersistence false\n"
                    f"certfile {crt}\nkeyfile {r.dir / 'broker.key'}\nlog_dest stderr\nlog_type all\n")
    (r.dir / "broker.key").write_bytes(key.read_bytes())
    (r.dir / "broker.key").chmod(0o644)  # the broker is nobody when it reads it
    broker = r.on("server", "mosquitto", "mosquitto", "-c", conf)
    r.listening(PORT)
    r.attach()
    tls = ("-h", SRV, "-p", str(PORT), "--cafile", crt, "--insecure", "-t", "a/b", "-V", "mqttv5")
    big = pattern("big", 100_000).hex()
    sub = r.on("client", "sub", "mosquitto_sub", *tls, "-q", "1", "-C", "53", env=r.preload())
    broker.wait_line("Sending SUBACK")
    for q in "012":
        r.do("client", "mosquitto_pub", *tls, "-q", q, "-m", f"quality {q}", env=r.preload())
    r.do("client", "mosquitto_pub", *tls, "-q", "1", "-l", env=r.preload(),
         data=b"".join(b"line %d\n" % i for i in range(49)))
    r.do("client", "mosquitto_pub", *tls, "-q", "1", "-s", "--tls-version", "tlsv1.2",
         env=r.preload(), data=big.encode())
    equal(sub.wait(20), 0, f"mosquitto_sub's status: {sub.err()}")
    equal(sub.out().splitlines(), [f"quality {q}" for q in "012"] + [f"line {i}" for i in range(49)] + [big], "what was heard")
    r.row("mosquitto broker", "libssl.so.3", "server", PORT, at_least=6)
    r.row("mosquitto_sub client", "libssl.so.3", "client", PORT, only=lambda c, s: len(s) > len(big))
    r.row("mosquitto_pub client", "libssl.so.3", "client", PORT, at_least=5)


roles(play, needs=["mosquitto", "mosquitto_pub", "mosquitto_sub"])
