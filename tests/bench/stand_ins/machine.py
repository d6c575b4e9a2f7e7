"""A machine that says it has a GPU."""

import argparse
import json
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("--json", type=Path)
parser.parse_args().json.write_text(json.dumps({"device": "A Stand-in", "date": "2025-06-01"}))
