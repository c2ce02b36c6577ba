"""torchrun with a last word: which process of which machine ended a run, and how to go on.

    python -m mmoid.torchrun OPTIONS_OF_TORCHRUN PROGRAM ARGUMENTS

The tools dist_train.sh and dist_test.sh start it on each machine. It leaves everything to ``torch.distributed.run``
but the end of a run that fails: a few lines instead of a traceback of the launcher, and on all machines within
``MMOID_PEER_TIMEOUT`` seconds (30) if one is lost. The exit status is then 1, or 128 + the number of the signal that
ended the launcher.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
import traceback
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.run import parse_args, run

from mmoid.machine_watch import MachineWatch, Reports

KILL_AFTER = 40.0
"""Seconds that the launcher gets to stop its processes; it kills those that do not obey after 30."""

LOST_PEERS = ('gloo', 'nccl', 'connection closed by peer', 'connection reset by peer', 'tcpstore', 'broken pipe')
"""In messages of ranks that failed because others had."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the processes of this machine; returns the exit status."""
    args = parse_args(arguments)
    end = _End()
    watch = _watch(args, end)
    try:
        if watch is not None:
            watch.start()
        run(args)
    except ChildFailedError as error:
        status, report = 1, _report(args, ranks=[_rank_report(*item) for item in error.failures.items()])
    except SignalException as error:
        number = int(error.sigval)
        by_hand = None if end.decided else f'the launcher received {error.sigval.name}'
        status, report = (1 if end.decided else 128 + number), _report(args, reason=end.reason or by_hand)
    except Exception as error:  # the machines did not find each other, for example
        traceback.print_exc()
        status, report = 1, _report(args, reason=f'the launcher failed: {error}'.splitlines()[0])
    else:
        if watch is not None:
            watch.stop()
        return 0
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it ends anyway
    reports = watch.exchange(report) if watch is not None else {0: report}
    print(message(reports, args), file=sys.stderr, flush=True)
    return status


class _End:
    """Ends the launcher from the watch's thread, as a signal to it does."""

    def __init__(self) -> None:
        self.decided = False
        self.reason: str | None = None

    def __call__(self, reason: str | None) -> None:
        self.decided, self.reason = True, reason
        os.kill(os.getpid(), signal.SIGTERM)
        # torchrun does not notice where it waits for the other machines at the end of a run. Its ranks are gone then.
        time.sleep(KILL_AFTER)
        print(f'mmoid: {reason or "another machine has ended the run"}', file=sys.stderr, flush=True)
        os._exit(1)


def _watch(args: Namespace, end: _End) -> MachineWatch | None:
    """None on a single machine."""
    machines = int(args.nnodes)
    if machines == 1:
        return None
    text = os.environ.get('MMOID_PEER_TIMEOUT', '30')
    try:
        patience = float(text)
    except ValueError:
        patience = 0.0
    if not patience > 0:
        raise SystemExit(f'error: MMOID_PEER_TIMEOUT must be a number of seconds above 0, got {text!r}')
    return MachineWatch(args.node_rank, machines, args.master_addr, args.master_port, patience, end)


def _report(args: Namespace, ranks: Sequence[dict] = (), reason: str | None = None) -> dict[str, Any]:
    return {'host': socket.gethostname(), 'ranks': list(ranks), 'reason': reason}


def _rank_report(rank: int, failure: ProcessFailure) -> dict[str, Any]:
    """What one rank died of; ``message`` is that of its exception, where it left one."""
    detail = failure.message
    text = detail['message'] if isinstance(detail, dict) else ''
    return {
        'rank': rank,
        'pid': failure.pid,
        'signal': failure.signal_name() if failure.exitcode < 0 else None,
        'status': failure.exitcode,
        'message': text.strip().splitlines()[0] if text.strip() else '',
        'time': failure.timestamp,
        # NCCL ends its process by SIGABRT where a peer is lost.
        'lost_peers': failure.exitcode == -signal.SIGABRT or any(word in text.lower() for word in LOST_PEERS),
    }


def message(reports: Reports, args: Namespace) -> str:
    """The last words, the likely cause first.

    Args:
        reports: By machine.
        args: Of torchrun: the program and its arguments.
    """
    many = int(args.nnodes) > 1
    ranks, reasons = [], []
    for machine, report in sorted(reports.items()):
        place = f'on machine {machine} ({report["host"]})' if many else f'on {report["host"]}'
        # torchrun ends the ranks that are left by SIGTERM, within the second that a time tells.
        ranks += [
            ((rank['lost_peers'], rank['signal'] == 'SIGTERM', rank['time'], rank['rank']), rank, place)
            for rank in report['ranks']
        ]
        if report['reason'] is not None:
            reasons.append(f'{place[3:]}: {report["reason"]}' if many else report['reason'])
    ranks.sort(key=lambda item: item[0])
    lines = [_rank_line(rank, place) for _, rank, place in ranks]
    # A lost machine explains ranks that lost their peers, not one that failed by itself.
    lines = [*reasons, *lines] if all(rank['lost_peers'] for _, rank, _ in ranks) else [*lines, *reasons]
    lines.append('the run has ended on all machines' if many else 'the run has ended')
    if os.path.basename(args.training_script) == 'train.py':
        once_more = 'the same command goes' if '--resume' in args.training_script_args else '--resume goes'
        lines[-1] += f'; once the cause is gone, {once_more} on from the newest checkpoint'
    return '\n'.join(f'mmoid: {line}' for line in lines)


def _rank_line(rank: dict[str, Any], place: str) -> str:
    when = time.strftime('%H:%M:%S', time.localtime(rank['time']))
    line = f'rank {rank["rank"]} {place}, process {rank["pid"]}, '
    if rank['signal'] is None:
        line += f'ended with status {rank["status"]} at {when}' + (f': {rank["message"]}' if rank['message'] else '')
    else:
        line += f'was ended by {rank["signal"]} at {when}'
    if rank['signal'] == 'SIGKILL':
        line += '; if nobody did that, the system did, for want of memory (dmesg -T)'
    if rank['lost_peers']:
        line += ' (most likely because it lost another rank)'
    return line


if __name__ == '__main__':
    status = main()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    # Python would wait for a thread of the watch that waits for a machine that is no more.
    os._exit(status)
