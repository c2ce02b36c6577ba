"""Stand-ins for ``srun`` and ``scontrol``, which start the processes of a job on this machine.

``srun`` gives them Slurm's variables, one "node" to every ``--ntasks-per-node``, writes its own arguments to
``$FAKE_SLURM/srun.json``, and as with ``--kill-on-bad-exit=1`` stops all tasks when one fails.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path


def write_commands(folder: Path) -> None:
    """Makes both commands in a folder that is to stand on PATH."""
    folder.mkdir()
    for name in ('srun', 'scontrol'):
        (folder / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" "{__file__}" {name} "$@"\n')
        (folder / name).chmod(0o755)


def srun(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser('srun', allow_abbrev=False)
    for name in ('-p', '--job-name', '--gres', '--exclude'):
        parser.add_argument(name)
    for name in ('--ntasks', '--ntasks-per-node', '--cpus-per-task', '--kill-on-bad-exit'):
        parser.add_argument(name, type=int)
    parser.add_argument('command', nargs=argparse.REMAINDER)
    args = parser.parse_args(arguments)
    Path(os.environ['FAKE_SLURM'], 'srun.json').write_text(json.dumps(vars(args)))
    nodes = -(-args.ntasks // args.ntasks_per_node)
    variables = dict(SLURM_JOB_ID='7', SLURM_NTASKS=str(args.ntasks), SLURM_NODELIST=f'node[1-{nodes}]')
    tasks = []
    for task in range(args.ntasks):
        own = dict(
            SLURM_PROCID=task, SLURM_LOCALID=task % args.ntasks_per_node, SLURM_NODEID=task // args.ntasks_per_node
        )
        env = {**os.environ, **variables, **{name: str(value) for name, value in own.items()}}
        tasks.append(subprocess.Popen(args.command, env=env))
    while not (failed := [task for task in tasks if task.poll()]) and None in [task.poll() for task in tasks]:
        time.sleep(0.05)
    if failed and args.kill_on_bad_exit == 1:
        for task in tasks:
            task.kill()
    return max(code if code >= 0 else 128 - code for code in [task.wait() for task in tasks])


def scontrol(arguments: list[str]) -> int:
    what, kind, nodes = arguments
    assert (what, kind) == ('show', 'hostname') and nodes.startswith('node[1-')
    print('\n'.join(['localhost'] * int(nodes[len('node[1-') : -1])))  # one write: mmengine reads only the first line
    return 0


if __name__ == '__main__':
    sys.exit({'srun': srun, 'scontrol': scontrol}[sys.argv[1]](sys.argv[2:]))
