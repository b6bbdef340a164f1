"""Run ``exapt`` with the arguments given, and print the peak of this process's memory in MiB (on Linux)."""

from __future__ import annotations

import sys
from pathlib import Path

from exapt.cli import main

if __name__ == "__main__":
    sys.argv[0] = "exapt"
    try:
        main()
    except SystemExit as left:
        if left.code:
            raise
    status = Path("/proc/self/status").read_text(encoding="ascii")
    print(float(status.partition("VmHWM:")[2].split()[0]) / 1024)
