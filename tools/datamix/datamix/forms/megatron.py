"""Megatron-LM's and NeMo's blend: `weight prefix weight prefix ...`, the words of --data-path, or the content of the file that
--data-args-path names. Prefixes are of .bin/.idx pairs. The file is split at white space, and a blend's weights must be above 0, so that
domains without weight are left out. Weights are of samples of the sequence length, that is of tokens. Stages are a file each.
"""

from __future__ import annotations

from collections.abc import Sequence

from datamix.forms.common import Form, How, Read, as_number, name_of, one, path_of, refuse, relative, unique, used
from datamix.schedule import Stage
from tenfold_shared import BadInput


def write(stages: Sequence[Stage], how: How) -> str:
    words = []
    for name, weight in used(one(stages)).items():
        path = path_of(name, how.paths or "{domain}")
        if not path or path.split() != [path]:
            refuse(repr(path), "Megatron splits the list at white space")
        words += [repr(weight), path]
    return " ".join(words) + "\n"


def read(text: str, where: str, how: How) -> list[Read]:
    words = text.split()
    if not words or len(words) % 2:
        raise BadInput(f"{where}: {len(words)} words; expected pairs, weight and prefix (Megatron takes a list without weights by size)")  # fmt: skip
    found: dict[str, float] = {}
    for weight, path in zip(words[::2], words[1::2], strict=True):
        name = unique(name_of(path, how.paths or "{domain}", where), found, where)
        found[name] = as_number(weight, f"{where}: {path}")
    return [Read(relative(found, where))]


FORM = Form("megatron", ".txt", write, read, zeros=False, stages="folder")
