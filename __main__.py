"""``python -m aurevoir``."""

import sys

from .cli.main import main

sys.exit(main())
