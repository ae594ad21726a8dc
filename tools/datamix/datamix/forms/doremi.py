"""DoReMi's domain weights (sangmichaelxie/doremi, configs/*.json): `train_domain_weights` and `eval_domain_weights`, each a map from the
folder of a domain to its weight. The weights are of chunks of the model's length, that is of tokens; they need not sum to 1 there.
"""

from __future__ import annotations

from collections.abc import Sequence

from datamix.forms.common import (
    Form,
    How,
    Read,
    as_weights,
    dump_json,
    field,
    load_json,
    name_of,
    one,
    path_of,
    relative,
)
from datamix.schedule import Stage


def write(stages: Sequence[Stage], how: How) -> str:
    template = how.paths or "{domain}"
    weights = {path_of(name, template): w for name, w in one(stages).weights.items()}
    # Its own files give evaluation the weights of training.
    return dump_json({"train_domain_weights": weights, "eval_domain_weights": weights})


def read(text: str, where: str, how: How) -> list[Read]:
    at = f"{where}: train_domain_weights"
    given = as_weights(field(load_json(text, where), "train_domain_weights", where), at)
    template = how.paths or "{domain}"
    return [Read({name_of(name, template, at): w for name, w in relative(given, at).items()})]


FORM = Form("doremi", ".json", write, read)
