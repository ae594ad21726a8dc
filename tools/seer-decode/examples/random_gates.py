"""Untrained gates for a model's config, saved as a folder: `python random_gates.py smollm2 FOLDER`."""

import sys

from seer_decode import Gates, made_for, save
from seer_decode.shape import config_of

uri, folder = sys.argv[1:]
config = config_of(uri)
gates = Gates.of(config, seed=0)
print(save(gates, made_for(config, gates.shape, uri), folder, overwrite=True))
