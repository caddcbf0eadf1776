#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""Some seconds of tests/soak: all that it does, once or twice. Memory that grows slowly shows in its long run only."""
import os
import pathlib

SOAK = pathlib.Path(__file__).resolve().parent.parent / "soak"
os.execv(SOAK, [str(SOAK), "--short"])
