"""`python -m tsgen` is `tsgen`."""

import sys

from tsgen.cli import main

sys.exit(main())
