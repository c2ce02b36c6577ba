"""Stand-ins for ``srun`` and ``scontrol``, which start the processes of a job on this machine.

``srun`` gives them Slurm's variables, one "node" to every ``--ntasks-per-node``, and writes its own arguments to
``$FAKE_SLURM/srun.json``.
"""

import argparse
import json
import os
import subprocess
import sys
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
        own = dict(SLURM_PROCID=str(task), SLURM_LOCALID=str(task % args.ntasks_per_node))
        tasks.append(subprocess.Popen(args.command, env={**os.environ, **variables, **own}))
    return max(task.wait() for task in tasks)


def scontrol(arguments: list[str]) -> int:
    what, kind, nodes = arguments
    assert (what, kind) == ('show', 'hostname') and nodes.startswith('node[1-')
    sys.stdout.write('localhost\n' * int(nodes[len('node[1-') : -1]))  # at once, because mmengine reads only one line
    return 0


if __name__ == '__main__':
    sys.exit({'srun': srun, 'scontrol': scontrol}[sys.argv[1]](sys.argv[2:]))
