"""Disks that become full or read-only while a test writes to them; the fixture ``small_disk`` mounts one."""

import subprocess
from contextlib import suppress


def fill(folder):
    with open(folder / 'other', 'wb', buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 12))


def make_read_only(folder):
    subprocess.run(['mount', '-o', 'remount,ro', folder], check=True)


def repair(folder):
    """Undoes both."""
    subprocess.run(['mount', '-o', 'remount,rw', folder], check=True)
    (folder / 'other').unlink(missing_ok=True)
