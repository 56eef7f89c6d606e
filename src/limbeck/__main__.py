"""`python -m limbeck`: the command."""

import sys

from limbeck.cli import main

sys.exit(main(sys.argv[1:]))
