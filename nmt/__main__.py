"""`python -m nmt`, which is what `torchrun -m nmt` starts."""

import sys

from nmt.cli import main

if __name__ == "__main__":
    sys.exit(main())
