#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes frame_*.bin and zblock_*.bin beside itself: PROTOCOL.md sections 2 and 3 put into bytes by hand.

Shares no code with proto/: the unit tests compare our encoder and decoder with these files. The zstd
streams are assembled from raw and run-length blocks as RFC 8878 describes them, without libzstd.
"""
import os
import struct

HERE = os.path.dirname(os.path.abspath(__file__))


def write(name, data):
    with open(os.path.join(HERE, name + ".bin"), "wb") as f:
        f.write(data)


def frame(kind, body, flags=0):
    return struct.pack(">BBHI", kind, flags, 0, len(body)) + body


def text8(s):
    return bytes([len(s)]) + s


def text16(s):
    return struct.pack(">H", len(s)) + s


FLOW = 0x0102030405060708
TS = 0x1112131415161718
ID = bytes(range(0xA0, 0xB0))

frames = {
    "hello": frame(1, struct.pack(">H16sHHQQ", 1, ID, 2, 5, 0x2122232425262728, TS)
                   + text8(b"web-1.example") + text8(b"sslcollector 0.1.0")),
    "welcome": frame(2, struct.pack(">H16sHQ", 1, ID, 4, 0x3132333435363738)),
    "refused": frame(3, struct.pack(">H", 3) + text8(b"token expired")),
    "flow_open": frame(4, struct.pack(">Q16sQQ", FLOW, ID, TS, 0x4142434445464748)
                       + struct.pack(">BBBB", 6, 4, 0, 3)
                       + bytes([192, 0, 2, 1]) + bytes(12) + bytes([198, 51, 100, 7]) + bytes(12)
                       + struct.pack(">HHHHIII", 49152, 443, 1460, 3, 0xF0000098, 4711, 33)
                       + text8(b"curl") + text16(b"/usr/bin/curl") + text8(b"docker-1")),
    "flow_open6": frame(4, struct.pack(">Q16sQQ", FLOW, ID, TS, 0)
                        + struct.pack(">BBBB", 6, 6, 1, 1)
                        + bytes.fromhex("20010db8000000000000000000000001")
                        + bytes.fromhex("20010db80000000000000000000000ff")
                        + struct.pack(">HHHHIII", 1024, 8443, 0, 0, 0, 0, 0)
                        + text8(b"") + text16(b"") + text8(b"")),
    "flow_meta": frame(5, struct.pack(">Q", FLOW) + text8(b"sni") + text16(b"www.example")),
    "data": frame(6, struct.pack(">QQQBB", FLOW, 0x5152535455565758, TS, 1, 1) + text16(b"GET / HTTP/1.1\r\n")),
    "gap": frame(7, struct.pack(">QQQQB", FLOW, 0x6162636465666768, 0x100000000, TS, 1)),
    "flow_fin": frame(8, struct.pack(">QQB", FLOW, TS, 1)),
    "flow_close": frame(9, struct.pack(">QQB", FLOW, TS, 6)),
    "stats": frame(10, text8(b"ship_bytes_shed") + struct.pack(">Q", 0x7172737475767778)),
    "ack": frame(11, struct.pack(">Q", 0x8182838485868788)),
    "ping": frame(12, struct.pack(">Q", TS)),
    "pong": frame(13, struct.pack(">Q", TS)),
    "ping_clock": frame(12, struct.pack(">QQQqQ", TS, 0, 0, -90000000001, 250000)),
    "pong_clock": frame(13, struct.pack(">QQQqQ", TS, TS + 7, TS + 9, 0, 0)),
    "enroll": frame(14, ID + text8(b"web-1.example") + text16(bytes([0x30, 0x03, 0x02, 0x01, 0x05]))),
    "enrolled": frame(15, text16(b"-----CERT-----\n") + text16(b"-----CA-----\n")),
}
for name, data in frames.items():
    write("frame_" + name, data)


def envelope(kind, flags, wire, raw_len, seq):
    return struct.pack(">BBHIIQ", kind, flags, 0, len(wire), raw_len, seq) + wire


def zstd_header(window_log):  # RFC 8878, 3.1.1: magic, descriptor without content size, window
    return bytes.fromhex("28b52ffd") + bytes([0x00, (window_log - 10) << 3])


def zstd_block(kind, size, data):  # RFC 8878, 3.1.1.2: not the last one; 0 raw, 1 run-length
    return (size << 3 | kind << 1).to_bytes(3, "little") + data


first, ping = frames["data"], frames["ping"]
run = frame(200, b"\x07" * 100, 0)  # a type nobody knows, half of it one run
write("zblock_control", envelope(1, 0, ping, len(ping), 0))
write("zblock_stored", envelope(2, 0, first, len(first), 1))
write("zblock_zstd",
      envelope(2, 1, zstd_header(19) + zstd_block(0, len(first), first), len(first), 1)
      + envelope(2, 0, b"", 0, 2)
      + envelope(2, 1, zstd_block(0, 8, run[:8]) + zstd_block(1, 100, b"\x07"), len(run), 3))
write("zblock_window", envelope(2, 1, zstd_header(20) + zstd_block(0, len(first), first), len(first), 1))
