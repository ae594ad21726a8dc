"""The modules of this folder are scripts as well, and are imported by their own names."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
