"""``python -m hq_cli`` is ``hq``."""

import sys

from hq_cli.main import main

sys.exit(main())
