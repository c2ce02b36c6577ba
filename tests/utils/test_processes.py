import subprocess
import sys

import psutil

from tests.tool_runs import ROOT

PROGRAM = """
import os, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from mmoid.utils.processes import end_with_parent

if __name__ == '__main__':
    with ProcessPoolExecutor(1, get_context('spawn'), end_with_parent) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        time.sleep(60)
"""


def test_a_worker_of_a_killed_process_ends():
    process = subprocess.Popen([sys.executable, '-c', PROGRAM], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    worker = psutil.Process(int(process.stdout.readline()))
    process.kill()
    process.communicate()
    assert psutil.wait_procs([worker], timeout=20)[1] == []
