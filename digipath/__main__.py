"""`python -m digipath` is `digipath`."""

import sys

from digipath.cli import main

sys.exit(main())
