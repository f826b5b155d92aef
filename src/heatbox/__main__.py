"""`python -m heatbox`, and with it `torchrun -m heatbox`."""

import sys

from heatbox.cli.main import main

sys.exit(main())
