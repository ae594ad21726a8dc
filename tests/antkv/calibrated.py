"""Models, texts and runs of the tests of calibration."""

import shutil

from antkv import calibrate
from antkv import codebook as books


def run(folder, out, texts=(), **change):
    """The verb in this process."""
    how = {
        "uri": str(folder), "shape": books.Shape(4, 16), "rope": "pre", "weights": "bound2", "scope": "head", "left_out": 0.01,
        "tokens": 1024, "length": 128, "dtype": "float32", "device": "cpu", "trust_remote_code": False,
        "allow_extrapolation": False, "seed": 0, "output": str(out), "overwrite": False, "as_json": False, "quiet": True,
    }  # fmt: skip
    return calibrate.run([str(path) for path in texts or [folder / "text.txt"]], **(how | change))


def model_folder(folder, where, model):
    """The folder's tokenizer and text beside another model's weights."""
    where.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "text.txt"):
        shutil.copy(folder / name, where)
    model.save_pretrained(where)
    return where
