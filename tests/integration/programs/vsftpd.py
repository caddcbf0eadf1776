#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""vsftpd: control connection on descriptor 0, data connections, a chrooted and sandboxed session process;
AUTH TLS and TLS from the start; curl and lftp are the clients. The package excludes other FTP servers, so
it is unpacked."""
from role import SRV, equal, lib, pattern, roles
from lib_debs import unpack

EXPLICIT, IMPLICIT = 21, 990
DATA = {EXPLICIT: 2121, IMPLICIT: 2990}
CONF = """
listen=YES
background=NO
listen_address={addr}
listen_port={port}
pasv_min_port={data}
pasv_max_port={data}
anonymous_enable=YES
anon_root={root}
no_anon_password=YES
write_enable=YES
anon_upload_enable=YES
anon_umask=022
ftp_username=daemon
nopriv_user=nobody
secure_chroot_dir={home}/empty
ssl_enable=YES
allow_anon_ssl=YES
force_anon_logins_ssl=YES
force_anon_data_ssl=YES
require_ssl_reuse=NO
ssl_tlsv1=YES
ssl_ciphers=HIGH
implicit_ssl={implicit}
rsa_cert_file={crt}
rsa_private_key_file={key}
"""


def server(r, exe, port):
    crt, key = r.t.cert()
    home, root = r.dir / f"vsftpd{port}", r.dir / "ftp"
    (home / "empty").mkdir(parents=True)
    (home / "conf").write_text(CONF.format(addr=SRV, port=port, data=DATA[port], home=home, root=root, crt=crt,
                                           key=key, implicit="YES" if port == IMPLICIT else "NO"))
    r.on("server", "vsftpd", exe, home / "conf")
    r.listening(port)


def talk_curl(r, url, name, *args):
    up = r.dir / f"up-{name}"
    up.write_bytes(pattern(name, 700_000))
    r.do("client", "curl", "-sSk", *args, f"{url}/in/{name}", "-T", up, env=r.env)
    equal(lib.sha256((r.dir / "ftp/in" / name).read_bytes()), lib.sha256(pattern(name, 700_000)), "what curl put")
    got = r.do("client", "curl", "-sSk", *args, f"{url}/big", f"{url}/small", env=r.env)
    equal(lib.sha256(got), lib.sha256(pattern("big", 1_500_000) + pattern("small", 5)), "what curl got")
    r.do("client", "curl", "-sSk", *args, f"{url}/", env=r.env)


def talk_lftp(r, url, name, *sets):
    up, got = r.dir / f"up-{name}", r.dir / f"got-{name}"
    up.write_bytes(pattern(name, 300_000))
    script = ["set ssl:verify-certificate no", "set ftp:ssl-force yes", "set ftp:ssl-allow-anonymous yes",
              "set ftp:ssl-protect-data yes", *sets,
              f"open {url}", "ls", f"put -O in {up}", f"get big -o {got}", f"get small -o {got}2", "bye"]
    r.do("client", "lftp", "--norc", "-c", "; ".join(script), env={**r.env, "HOME": str(r.dir)})
    equal(lib.sha256(got.read_bytes()), lib.sha256(pattern("big", 1_500_000)), "what lftp got")
    equal(lib.sha256((r.dir / "ftp/in" / up.name).read_bytes()), lib.sha256(pattern(name, 300_000)), "what lftp put")


def play(r):
    exe = unpack(r.t, "vsftpd") / "usr/sbin/vsftpd"
    (r.dir / "ftp/in").mkdir(parents=True)
    (r.dir / "ftp/in").chmod(0o777)
    (r.dir / "ftp/big").write_bytes(pattern("big", 1_500_000))
    (r.dir / "ftp/small").write_bytes(pattern("small", 5))
    server(r, exe, EXPLICIT)
    server(r, exe, IMPLICIT)
    r.attach()
    talk_curl(r, f"ftp://{SRV}", "explicit", "--ssl-reqd")
    talk_curl(r, f"ftp://{SRV}", "explicit12", "--ssl-reqd", "--tls-max", "1.2")
    talk_curl(r, f"ftps://{SRV}", "implicit")
    talk_lftp(r, f"ftp://{SRV}", "lftp")
    for port, how, speaks in ((EXPLICIT, "AUTH TLS", "ftp"), (IMPLICIT, "TLS from the start", "tls")):
        r.row(f"vsftpd control, {how}", "libssl.so.3", "server", port, decode=speaks, at_least=3)
        r.row(f"vsftpd data, {how}", "libssl.so.3", "server", DATA[port], at_least=4)
    r.row("curl client ftp control, AUTH TLS", "libssl.so.3", "client", EXPLICIT, decode="ftp", at_least=6,
          only=lambda c, _: b"EPSV" in c)
    r.row("curl client ftps control", "libssl.so.3", "client", IMPLICIT, at_least=3)
    r.row("lftp client ftp control, AUTH TLS", "libgnutls.so.30", "client", EXPLICIT, decode="ftp")
    r.row("curl and lftp client ftp data", "both", "client", DATA[EXPLICIT], at_least=11)
    r.row("curl client ftps data", "libssl.so.3", "client", DATA[IMPLICIT], at_least=4)


roles(play, needs=["curl", "lftp"])
