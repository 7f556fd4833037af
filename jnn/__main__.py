"""`python -m jnn`, the same as the command `jnn`."""

import sys

from jnn.cli import main

sys.exit(main())
