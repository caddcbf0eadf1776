#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""lftp (GnuTLS, non-blocking) over HTTPS: one file, several at once, an upload. As an FTP client it is in
vsftpd.py and proftpd.py."""
from role import SRV, equal, pattern, roles, sha256

PORT = 443


def play(r):
    bodies = {f"f{i}": r.t.www(f"d/f{i}", size) for i, size in enumerate((1, 70_000, 300_000, 2_000_000))}
    r.nginx((f"{PORT} ssl",), "location /d/ { autoindex on; }")
    (r.dir / "up").write_bytes(pattern("up", 400_000))
    r.attach()

    def lftp(*script):
        return r.do("client", "lftp", "--norc", "-c", "; ".join(("set ssl:verify-certificate no", *script)),
                    env={**r.env, "HOME": str(r.dir)})
    equal(sha256(lftp(f"cat https://{SRV}/d/f3")), sha256(bodies["f3"]), "what lftp got")
    lftp(f"open https://{SRV}", f"mirror -P 3 /d {r.dir / 'got'}")
    for name, body in bodies.items():
        equal(sha256((r.dir / "got" / name).read_bytes()), sha256(body), f"{name} as mirrored")
    lftp(f"open https://{SRV}", f"put -O /post {r.dir / 'up'}")
    r.row("lftp client https", "libgnutls.so.30", "client", PORT, at_least=5)


roles(play, needs=["lftp", "nginx"])
