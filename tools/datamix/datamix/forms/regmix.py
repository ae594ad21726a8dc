"""RegMix's configuration (sail-sg/regmix, mixture_config/*.yaml): `train` maps the prefixes of training files to weights, `valid` those of
validation files to 1, `model_name` is a name of its model zoo.

Its packing script calls files <split>_<short name>_<domain>..., and its trainer takes every file that begins with the key, so that the
template is train_{domain} here and --paths 'train_the_pile_{domain}' names a data set; two keys of which one begins with the other would
both read the files of the longer one. Weights are of packed sequences, that is of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

from datamix.corpus import ambiguous
from datamix.forms.common import Form, How, Read, as_weights, dump_yaml, field, load_yaml, name_of, one, path_of
from datamix.schedule import Stage
from tenfold_shared import BadInput

TEMPLATE = "train_{domain}"
MODEL = "tinyllama_1M"  # the proxy of its scripts; the user's own trainer reads it from there


def write(stages: Sequence[Stage], how: How) -> str:
    template = how.paths or TEMPLATE
    weights = one(stages).weights
    names = {name: path_of(name, template) for name in weights}
    if clash := ambiguous(list(names.values())):
        raise BadInput(f"{clash[0]}, {clash[1]}: RegMix finds files by how they begin and would read the second as the first as well; rename one")  # fmt: skip
    valid = [f"valid_{path.removeprefix('train_')}" if path.startswith("train_") else path for path in names.values()]
    return dump_yaml(
        {
            "train": {names[name]: w for name, w in weights.items()},
            "valid": dict.fromkeys(valid, 1.0),
            "model_name": MODEL,
        }
    )


def read(text: str, where: str, how: How) -> list[Read]:
    train = as_weights(field(load_yaml(text, where), "train", where), f"{where}: train")
    template = how.paths
    if template is None:
        template = TEMPLATE if all(name.startswith("train_") for name in train) else "{domain}"
    return [Read({name_of(name, template, f"{where}: train"): w for name, w in train.items()})]


FORM = Form("regmix", ".yaml", write, read)
