"""What a library prints by itself."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import ctypes
from autoprune.core.quiet import quiet_stdout
print("before")
libc = ctypes.CDLL(None)
with quiet_stdout():
    libc.puts(b"from C")
    print("from Python")
print("after")
libc.puts(b"C again")
libc.fflush(None)
"""


def test_what_c_code_prints_is_not_seen():
    run = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == ["before", "after", "C again"]
    assert not run.stderr


def test_it_does_without_a_standard_output():
    code = "import os, sys; os.close(1); " + "from autoprune.core.quiet import quiet_stdout as q\n"
    code += "with q():\n    sys.stderr.write('done')"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stderr.startswith("done")
