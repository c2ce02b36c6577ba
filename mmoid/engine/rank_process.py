"""What the process of a rank owes to whoever launched it: torchrun or Slurm, on one machine or several."""

from __future__ import annotations

import ctypes
import fcntl
import ipaddress
import os
import signal
import socket
import struct
import subprocess
import sys
from types import TracebackType

from torch.distributed.elastic.multiprocessing.errors import get_error_handler

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
SIOCGIFADDR = 0x8915  # <linux/sockios.h>


def answer_to_torchrun() -> None:
    """Leaves the message of an exception for torchrun to repeat, and ends with it.

    A launcher that is killed cannot stop its ranks. They would go on, and write into the folder in which the run is
    resumed meanwhile; so the kernel is asked to end them.
    """
    if 'TORCHELASTIC_RUN_ID' not in os.environ:
        return
    if sys.platform == 'linux':
        launcher = os.getppid()
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != launcher:  # it died before this was asked for
            os.kill(os.getpid(), signal.SIGTERM)
    show = sys.excepthook
    handler = get_error_handler()

    def record(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if isinstance(error, Exception):
            handler.record_exception(error)
        show(kind, error, trace)

    sys.excepthook = record


def name_slurm_ranks() -> None:
    """Sets the variables by which torch finds the other ranks, from those of Slurm, unless they are set.

    Raises:
        ValueError: This process was not started by ``srun``, or the first machine of the job cannot be told.
    """
    try:
        ranks = {'RANK': 'SLURM_PROCID', 'WORLD_SIZE': 'SLURM_NTASKS', 'LOCAL_RANK': 'SLURM_LOCALID'}
        os.environ.update({name: os.environ[slurm] for name, slurm in ranks.items()})
        nodes = os.environ['SLURM_NODELIST']
    except KeyError as error:
        raise ValueError(
            f'--launcher slurm: {error.args[0]} is not set, so this process was not started by srun; use '
            'tools/slurm_train.sh, or tools/dist_train.sh outside of Slurm'
        ) from None
    os.environ.setdefault('MASTER_PORT', '29500')
    if 'MASTER_ADDR' not in os.environ:
        os.environ['MASTER_ADDR'] = _first_node(nodes)


def _first_node(nodes: str) -> str:
    try:
        done = subprocess.run(['scontrol', 'show', 'hostnames', nodes], capture_output=True, text=True, check=True)
        return done.stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        raise ValueError(
            f'--launcher slurm: `scontrol show hostnames {nodes}` does not tell the first machine of the job '
            f'({error}); set MASTER_ADDR to its name'
        ) from None


def choose_gloo_interface(master: str) -> None:
    """Lets gloo talk on the network interface through which ``master`` is reached, unless GLOO_SOCKET_IFNAME is set.

    By itself gloo offers to the other machines whatever address the own host name has, which often is 127.0.1.1.
    """
    if 'GLOO_SOCKET_IFNAME' in os.environ:
        return
    try:
        family, _, _, _, target = socket.getaddrinfo(master, 9, socket.AF_INET, socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(target)  # sends nothing
            own = probe.getsockname()[0]
    except OSError:
        return  # known by IPv6 alone, or not at all: gloo's own message is as good
    if ipaddress.ip_address(own).is_loopback:
        return
    for _, name in socket.if_nameindex():
        if _address_of(name) == own:
            os.environ['GLOO_SOCKET_IFNAME'] = name
            return


def _address_of(interface: str) -> str | None:
    """Its first IPv4 address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            reply = fcntl.ioctl(any_socket, SIOCGIFADDR, struct.pack('256s', interface.encode()[:15]))
        except OSError:
            return None
    return socket.inet_ntoa(reply[20:24])
