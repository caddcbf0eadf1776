#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""Load generators against nginx: ab, wrk, siege. wrk uses one SSL object for several connections, siege
reads headers byte by byte."""
from role import SRV, roles
from lib import is_sanitized


def play(r):
    r.nginx(("443 ssl", "444 ssl", "445 ssl", "446 ssl"))
    r.t.www("page", 3_000 if is_sanitized() else 30_000)
    r.t.www("little", 3_000)  # hundreds of MB a second, with the larger one: tests/bench/ asks what arrives of those
    r.attach()
    env = r.preload()
    r.do("client", "ab", "-q", "-n", "40", "-c", "4", f"https://{SRV}/page", env=env)
    r.do("client", "ab", "-q", "-k", "-n", "40", "-c", "4", f"https://{SRV}/page", env=env)
    r.do("client", "wrk", "-t1", "-c4", "-d1s", f"https://{SRV}:444/little", env=env)
    r.do("client", "wrk", "-t1", "-c4", "-d1s", "-H", "Connection: close", f"https://{SRV}:445/page", env=env)
    r.do("client", "siege", "-q", "-b", "-c", "2", "-r", "5", f"https://{SRV}:446/page",
         env={**env, "HOME": str(r.dir)})
    # wrk ends in the midst of answers
    r.row("ab", "libssl.so.3", "client", 443, at_least=44)
    r.row("wrk", "libssl.so.3", "client", 444, at_least=4, unread=1 << 24)
    r.row("wrk, a request per connection", "libssl.so.3", "client", 445, at_least=8, unread=1 << 24)
    r.row("siege", "libssl.so.3", "client", 446, at_least=2)


roles(play, needs=["ab", "wrk", "siege", "nginx", "gcc"])
