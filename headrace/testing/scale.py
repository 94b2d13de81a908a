"""How much the long tests do: enough to notice a fault by default, the full measure with FULL_SIZE=1."""

import os

FULL_SIZE = os.environ.get("FULL_SIZE") == "1"
