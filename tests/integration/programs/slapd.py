#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""OpenLDAP (GnuTLS, which reads and writes through functions of its own): slapd, whose connections move
between threads, ldapadd and ldapsearch, LDAPS and StartTLS."""
from role import SRV, equal, roles

LDAP, LDAPS = 389, 636
CLIENTS = 6
ENTRIES = 600


def server(r):
    crt, key = r.t.cert()
    (r.dir / "db").mkdir()
    (r.dir / "slapd.conf").write_text(f"""
modulepath /usr/lib/ldap
moduleload back_mdb
include /etc/ldap/schema/core.schema
pidfile {r.dir}/slapd.pid
argsfile {r.dir}/slapd.args
TLSCertificateFile {crt}
TLSCertificateKeyFile {key}
sizelimit unlimited
database mdb
maxsize 67108864
dbnosync
directory {r.dir}/db
suffix "dc=mirror,dc=test"
rootdn "cn=root,dc=mirror,dc=test"
rootpw p
""")
    r.on("server", "slapd", "slapd", "-d", "0", "-f", r.dir / "slapd.conf",
         "-h", f"ldap://{SRV}:{LDAP} ldaps://{SRV}:{LDAPS}", env=r.env)
    r.listening(LDAP)
    r.listening(LDAPS)


def play(r):
    server(r)
    r.attach()
    env = {**r.env, "LDAPTLS_REQCERT": "never", "HOME": str(r.dir)}
    login = ("-x", "-D", "cn=root,dc=mirror,dc=test", "-w", "p")
    ways = (("-H", f"ldaps://{SRV}:{LDAPS}"), ("-H", f"ldap://{SRV}:{LDAP}", "-ZZ"))
    top = "dn: dc=mirror,dc=test\nobjectClass: dcObject\nobjectClass: organization\no: x\ndc: mirror\n"
    entries = [top] + [f"dn: cn=p{i},dc=mirror,dc=test\nobjectClass: person\ncn: p{i}\nsn: {i * 7919:0100x}\n"
                       for i in range(ENTRIES)]
    r.do("client", "ldapadd", *login, *ways[1], env=env, data="\n".join(entries).encode())
    for i in range(CLIENTS):
        out = r.do("client", "ldapsearch", *login, *ways[i % 2], "-LLL", "-b", "dc=mirror,dc=test", "cn=p*", "sn",
                   env=env)
        equal(out.count(b"\nsn: "), ENTRIES, "entries found")
    r.do("client", "ldapsearch", *login, *ways[0], "-LLL", "-b", "dc=mirror,dc=test", "cn=p7",
         env={**env, "LDAPTLS_CIPHER_SUITE": "NORMAL:-VERS-TLS1.3"})
    many = [r.on("client", f"search{i}", "ldapsearch", *login, *ways[i % 2], "-b", "dc=mirror,dc=test", env=env)
            for i in range(CLIENTS)]
    for p in many:
        equal(p.wait(30), 0, f"ldapsearch's status: {p.err()}")
    for port, how, speaks in ((LDAPS, "LDAPS", "tls"), (LDAP, "StartTLS", "ldap")):
        r.row(f"slapd server, {how}", "libgnutls.so.30", "server", port, decode=speaks, at_least=CLIENTS)
        r.row(f"ldapsearch client, {how}", "libgnutls.so.30", "client", port, decode=speaks, at_least=CLIENTS)


roles(play, needs=["slapd", "ldapsearch", "ldapadd"])
