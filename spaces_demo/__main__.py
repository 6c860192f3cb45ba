import sys

from videoxl.spaces_demo.app import main

if __name__ == "__main__":
    sys.exit(main())
