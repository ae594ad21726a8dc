"""The command-line shape every tool has: shared options, exit codes, error lines, doctor.

A tool's cli.py makes one `Tool` group and decorates its verbs with the options here; nothing below
imports a model library, so that `--help` stays instant.

group.py has errors and exit codes; options.py the shared options, config.py their --config;
settings.py makes structs of them; doctor.py is that verb; tables.py and terminal.py print.
"""

from tenfold_shared.cli.doctor import EXTRAS, add_doctor, check, diagnose
from tenfold_shared.cli.group import Terminated, Tool, tool
from tenfold_shared.cli.options import OPTIONS, Duration, Numbers, Shard, Share, Size, files_argument, options
from tenfold_shared.cli.settings import (
    Backend,
    Selection,
    engine_arguments,
    read_template,
    sha256_of,
    take,
    take_sampling,
)
from tenfold_shared.cli.tables import print_table

__all__ = [
    "EXTRAS",
    "OPTIONS",
    "Backend",
    "Duration",
    "Numbers",
    "Selection",
    "Shard",
    "Share",
    "Size",
    "Terminated",
    "Tool",
    "add_doctor",
    "check",
    "diagnose",
    "engine_arguments",
    "files_argument",
    "options",
    "print_table",
    "read_template",
    "sha256_of",
    "take",
    "take_sampling",
    "tool",
]
