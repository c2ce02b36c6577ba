"""torch.distributed.run, with the exit status that its ranks write into $MMOID_STATUS_FILE. torchrun.sh starts it."""

import os
import sys
import tempfile

from torch.distributed import run

if __name__ == '__main__':
    with tempfile.NamedTemporaryFile('r') as status:
        os.environ['MMOID_STATUS_FILE'] = status.name
        try:
            run.main()
        except BaseException:  # torchrun's status is 1, whatever that of the ranks
            if said := status.read():
                sys.exit(int(said))
            raise
