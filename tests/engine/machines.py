"""Two machines for tests: network namespaces if the user may create them (root), else the loopback interface."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.engine import small_run

ROOT = Path(__file__).parents[2]
WIRE = 'mmoid-wire'
ADDRESSES = ('10.99.0.1', '10.99.0.2')


@contextmanager
def two_machines() -> Iterator[list[str] | None]:
    """Creates two namespaces with a cable between them, and removes them afterwards; None if the user may not."""
    names = [f'mmoid-{os.getpid()}-{machine}' for machine in (0, 1)]
    try:
        try:
            for name in names:
                ip('netns', 'add', name)
            ip('-n', names[0], 'link', 'add', WIRE, 'type', 'veth', 'peer', 'name', WIRE, 'netns', names[1])
            for name, address in zip(names, ADDRESSES):
                ip('-n', name, 'addr', 'add', f'{address}/30', 'dev', WIRE)
                for interface in ('lo', WIRE):
                    ip('-n', name, 'link', 'set', interface, 'up')
            made: list[str] | None = names
        except (OSError, subprocess.CalledProcessError):
            made = None
        yield made
    finally:
        for name in names:
            with suppress(OSError, subprocess.CalledProcessError):
                ip('netns', 'delete', name)


def ip(*arguments: str) -> None:
    subprocess.run(['ip', *arguments], check=True, capture_output=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def write_config(data_root: Path, work_dir: Path, **options: object) -> Path:
    """A config file of :mod:`tests.engine.small_run` for the tools: 11 iterations of two ranks in each of 4 epochs."""
    defaults = {'batch_size': 2, 'num_workers': 1, 'pause': 0.03, 'default_hooks.checkpoint.iter_interval': 3}
    cfg = small_run.config(data_root, work_dir, **{**defaults, **options})
    cfg.custom_imports = dict(imports=['mmoid.registry', 'small_run'])
    work_dir.mkdir(exist_ok=True, parents=True)
    (work_dir / 'run.py').write_text('\n'.join(f'{key} = {value!r}' for key, value in cfg.to_dict().items()))
    return work_dir / 'run.py'


class Launch:
    """A command and all its child processes."""

    def __init__(self, command: Sequence[object], output: Path, **env: object) -> None:
        self.output = open(output, 'w+')
        environment = {
            **os.environ,
            'PATH': f'{Path(sys.executable).parent}:{os.environ["PATH"]}',
            'PYTHONPATH': f'{ROOT}:{ROOT}/tests/engine:{ROOT}/tests/evaluation',
            'PYTHONFAULTHANDLER': '1',
            'TORCH_ELASTIC_SHUTDOWN_TIMEOUT': '600',  # a disk may need more than torchrun's 30 s for a checkpoint
            **{name: str(value) for name, value in env.items()},
        }
        self.process = psutil.Popen(
            list(map(str, command)), cwd=ROOT, stdout=self.output, stderr=subprocess.STDOUT, env=environment
        )
        self.family: list[psutil.Process] = []

    def poll(self) -> int | None:
        with suppress(psutil.NoSuchProcess):
            self.family = self.process.children(recursive=True) or self.family
        return self.process.poll()

    def finish(self, timeout: float = 300.0) -> int:
        """Waits until no process is left; returns the exit status. After ``timeout`` seconds it shows all stacks."""
        end = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > end:
                for process in self.family:
                    with suppress(psutil.NoSuchProcess):
                        process.send_signal(signal.SIGABRT)
                time.sleep(5)
                raise AssertionError(self.text())
            time.sleep(0.05)
        end = time.monotonic() + 30
        while alive := [process for process in self.family if is_alive(process)]:
            assert time.monotonic() < end, alive
            time.sleep(0.05)
        return self.process.returncode

    def kill(self, victim: str) -> None:
        """Kills ``'rank 0'``, ``'rank 1'``, ``'both ranks'`` or ``'everything'``; returns when no process is left."""
        self.poll()
        ranks = {child.environ()['RANK']: child for child in self.process.children() if 'RANK' in child.environ()}
        everything = [self.process, *self.family]
        kill({'rank 0': [ranks['0']], 'rank 1': [ranks['1']], 'both ranks': ranks.values()}.get(victim, everything))
        assert self.finish(timeout=60) != 0

    def text(self) -> str:
        self.output.seek(0)
        return self.output.read()

    def clear(self) -> None:
        """Kills all processes."""
        self.poll()
        kill([self.process, *self.family])
        self.process.wait()
        self.output.close()


def kill(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def is_alive(process: psutil.Process) -> bool:
    """False for a zombie too: init may be slow to collect it."""
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


@contextmanager
def launches(*made: Launch) -> Iterator[tuple[Launch, ...]]:
    try:
        yield made
    finally:
        for launch in made:
            launch.clear()


def on_one_machine(config: Path, ranks: int = 2, *arguments: object) -> Launch:
    command = ['bash', 'tools/dist_train.sh', config, ranks, *arguments]
    return Launch(command, config.parent / 'output.txt')


def on_two_machines(namespaces: Sequence[str] | None, config: Path, ranks: int) -> list[Launch]:
    """Starts ``ranks`` ranks on each machine."""
    address, port = (ADDRESSES[0], 29500) if namespaces else ('127.0.0.1', free_port())
    runs = []
    for machine in (0, 1):
        env: dict[str, object] = dict(NNODES=2, NODE_RANK=machine, MASTER_ADDR=address, PORT=port)
        command = ['bash', 'tools/dist_train.sh', config, ranks]
        if namespaces:
            env.update(LOCAL_ADDR=ADDRESSES[machine], GLOO_SOCKET_IFNAME=WIRE)
            command = ['ip', 'netns', 'exec', namespaces[machine], *command]
        runs.append(Launch(command, config.parent / f'output{machine}.txt', **env))
    return runs
