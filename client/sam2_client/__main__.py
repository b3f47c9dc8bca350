"""Lets `python -m sam2_client` run the command `sam2`."""

import sys

from sam2_client.command import main

if __name__ == "__main__":
    sys.exit(main())
