# SPDX-License-Identifier: Apache-2.0
"""An IMAP client: imap.py HOST PORT imaps|starttls USER COUNT. Appends COUNT messages of different sizes to
the user's INBOX, fetches each and compares."""
import hashlib
import imaplib
import ssl
import sys


def main(host, port, how, user, count):
    ctx = ssl.create_default_context()  # writes $SSLKEYLOGFILE
    ctx.check_hostname, ctx.verify_mode = False, ssl.CERT_NONE
    if how == "imaps":
        c = imaplib.IMAP4_SSL(host, int(port), ssl_context=ctx, timeout=20)
    else:
        c = imaplib.IMAP4(host, int(port), timeout=20)
        c.starttls(ctx)
    c.login(user, "password")
    for i in range(int(count)):
        text = hashlib.shake_128(f"{user} {i}".encode()).digest(1 + i * 3989).hex()
        lines = "\r\n".join(text[k:k + 70] for k in range(0, len(text), 70))
        c.append("INBOX", None, None, f"Subject: {user} {i}\r\n\r\n{lines}\r\n".encode())
        c.select("INBOX")
        got = c.fetch(str(i + 1), "(BODY[TEXT])")[1][0][1]
        if got != lines.encode() + b"\r\n":
            sys.exit(f"{user} {i}: {got[:100]!r}")
    c.logout()


main(*sys.argv[1:])
