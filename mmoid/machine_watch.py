"""MachineWatch: the machines of one run keep an eye on each other, so that all end when one does.

torchrun watches the processes of its own machine. What happens on another one reaches it through its ranks alone, whose
collective operations fail when the network says so: at once if a process was killed, after 10 (NCCL) to 30 (gloo)
minutes if a machine lost its power or its cable. Shorter time limits for collective operations are no remedy, for ranks
wait for each other for minutes when one of them writes a checkpoint or computes a metric. So the launchers themselves,
which have nothing else to do, say every two seconds that they are there.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

BEAT = 2.0
"""Seconds between two signs of life."""

GRACE = 5.0
"""Seconds that a launcher gives its own ranks to fail, when another machine has reported that the run ends: what they
say is then not lost."""

HURRY = 0.2
"""Seconds between two looks at what the others say, when this machine's part has ended."""

LINGER = 10.0
"""Seconds that the launcher of a run that failed waits for what the others have to say."""

Reports = dict[int, Any]


class MachineWatch:
    """Signs of life and last words of all machines of a run, through torchrun's store on machine 0.

    Machine 0 listens to all others, and the others to machine 0: its store is what they talk through.

    Args:
        machine: This one, in [0, machines).
        machines: How many there are.
        address: Host name or address of machine 0.
        port: Of torchrun's store there.
        patience: Seconds without a sign of life after which a machine counts as lost.
        on_end: Called once, in a thread, when the run must end here: with what is wrong with a machine, or None where
            another machine has reported that it ends.
    """

    def __init__(
        self,
        machine: int,
        machines: int,
        address: str,
        port: int,
        patience: float,
        on_end: Callable[[str | None], None],
    ) -> None:
        self.machine, self.machines = machine, machines
        self.address, self.port, self.patience, self.on_end = address, port, patience, on_end
        self.reports: Reports = {}
        self._report: str | None = None
        self._heard: dict[int, tuple[int, float]] = {}  # of each machine the number of its beat, and when it came
        self._lost: set[int] = set()
        self._wake, self._over = threading.Event(), threading.Event()

    def start(self) -> None:
        """Starts both threads: one that talks, and may be stuck when the network is; one that judges."""
        for work in (self._talk, self._judge):
            threading.Thread(target=work, name=f'mmoid{work.__name__}', daemon=True).start()

    def stop(self) -> None:
        """This machine's part of the run has ended well: what others do no longer matters."""
        self._over.set()
        self._wake.set()

    def exchange(self, report: Any) -> Reports:
        """Tells the others that the run ends here, and why.

        Args:
            report: Anything that JSON can hold.

        Returns:
            The reports of all machines that gave one within :data:`LINGER` seconds, this one's included.
        """
        self._report = json.dumps(report)
        self._wake.set()
        end = time.monotonic() + LINGER
        # Machine 0 leaves last, for the store leaves with it.
        while len(self.reports.keys() | self._lost) < self.machines and time.monotonic() < end:
            time.sleep(0.1)
        time.sleep(BEAT if self.machine == 0 else 0)
        self.stop()
        return {**self.reports, self.machine: report}

    def _talk(self) -> None:
        store: Store | None = None
        beat, told = 0, None
        while not self._over.is_set():
            try:
                store = store or self._connect()
                beat += 1
                store.set(f'beat {self.machine}', str(beat))
                report = self._report
                if report is not None and report != told:
                    told = report
                    store.set(f'report {self.machine}', told)
                    store.add('reports', 1)
                self._listen(store)
            except (OSError, RuntimeError):  # (torch.distributed's all are): not there yet, or no more
                store, told = None, None
            self._wake.wait(BEAT if self._report is None else HURRY)
            self._wake.clear()

    def _connect(self) -> Store:
        with socket.create_connection((self.address, self.port), BEAT):
            pass  # torch would fill the terminal with its attempts
        # On machine 0 this is a second hold on torchrun's own server, which would otherwise end with torchrun's part of
        # a run that failed, before the others know why.
        store = TCPStore(
            self.address, self.port, None, self.machine == 0, timedelta(seconds=BEAT),
            wait_for_workers=False, multi_tenant=True,
        )  # fmt: skip
        return PrefixStore('mmoid machine watch', store)

    def _listen(self, store: Store) -> None:
        for machine in range(1, self.machines) if self.machine == 0 else (0,):
            key = f'beat {machine}'
            beat = int(store.get(key)) if store.check([key]) else 0
            if beat and beat != self._heard.get(machine, (0, 0.0))[0]:
                self._heard[machine] = (beat, time.monotonic())
        if store.add('reports', 0):
            keys = {machine: f'report {machine}' for machine in range(self.machines)}
            self.reports = {m: json.loads(store.get(key)) for m, key in keys.items() if store.check([key])}

    def _judge(self) -> None:
        while not self._over.wait(min(1.0, self.patience / 4)):
            now = time.monotonic()
            # A machine that has never been heard of is not there yet; how long it may take is torchrun's matter.
            self._lost = {machine for machine, (_, at) in self._heard.items() if now - at > self.patience}
            if self._report is not None:
                continue
            if self._lost:
                names = ' and '.join(f'machine {machine}' for machine in sorted(self._lost))
                self.on_end(f'{names} gave no sign of life for {self.patience:g} s')
                return
            if self.reports:
                if not self._over.wait(GRACE) and self._report is None:
                    self.on_end(None)
                return
