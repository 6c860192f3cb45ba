import sys

from videoxl.cli import main

sys.exit(main())
