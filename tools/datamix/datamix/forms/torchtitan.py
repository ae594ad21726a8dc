"""torchtitan's data mixing (pytorch/torchtitan): its configurations are Python, so this form is a Python module to import in one.

    config.dataloader = mixture.dataloader()                                  # release 0.3: InterleavedHuggingFaceTextDataLoader
    config.dataloader = GrainDataLoader.Config(dataset=mixture.dataset())     # later sources: DatasetMixConfig of WeightedDatasets

Both draw from children that are packed before they are mixed, so that weights count rows of one length, which are tokens. Neither has
stages. Weights must be above 0: domains without one are left out of the mix. Reading takes the literal WEIGHTS off the file without
running it.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence

from datamix.forms.common import Form, How, Read, as_weights, one, path_of, relative
from datamix.schedule import Stage
from tenfold_shared import BadInput

_MODULE = '''"""A data mixture for torchtitan, to import in a configuration: dataloader() for release 0.3, dataset() for Grain loaders."""

WEIGHTS = {
%(weights)s
}
PATTERNS = {  # of JSON Lines files with a field "text"
%(patterns)s
}


def text(row):
    return row["text"]


def lines(pattern):
    from datasets import load_dataset

    return load_dataset("json", data_files=pattern, split="train", streaming=True)


def dataloader():
    from torchtitan.hf_datasets import DatasetConfig
    from torchtitan.hf_datasets.text_datasets import DATASETS, HFDataSource, InterleavedHuggingFaceTextDataLoader

    used = {name: weight for name, weight in WEIGHTS.items() if weight > 0}
    for name in used:
        DATASETS[name] = DatasetConfig(path=PATTERNS[name], loader=lines, sample_processor=text)
    return InterleavedHuggingFaceTextDataLoader.Config(
        sources=[HFDataSource(dataset=name, weight=weight, infinite=True) for name, weight in used.items()]
    )


def not_empty(sample):
    return sample is not None


def dataset():
    from torchtitan.components import data
    from torchtitan.hf_datasets.text_datasets import TextProcessor

    def packed(pattern):
        one = data.SingleDatasetConfig(
            source=data.IndexedJsonlSource.Config(patterns=(pattern,)),
            processor=TextProcessor.Config(text_fn=text),
            post_filters=(not_empty,),
        )
        return data.ConcatThenSplitPackingConfig(dataset=one)

    return data.DatasetMixConfig(
        datasets=tuple(
            data.WeightedDataset(dataset=packed(PATTERNS[name]), weight=weight)
            for name, weight in WEIGHTS.items()
            if weight > 0
        )
    )
'''
TEMPLATE = "train/{domain}-*.jsonl"  # as a corpus of ours lies on disk


def write(stages: Sequence[Stage], how: How) -> str:
    weights = one(stages).weights
    patterns = {name: path_of(name, how.paths or TEMPLATE) for name in weights}
    return _MODULE % {
        "weights": "\n".join(f"    {name!a}: {w!r}," for name, w in weights.items()),
        "patterns": "\n".join(f"    {name!a}: {path!a}," for name, path in patterns.items()),
    }


def read(text: str, where: str, how: How) -> list[Read]:
    try:
        module = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise BadInput(f"{where}:{getattr(error, 'lineno', None) or 1}: not Python: {error}") from None
    for statement in module.body:
        if isinstance(statement, ast.Assign) and [ast.unparse(target) for target in statement.targets] == ["WEIGHTS"]:
            at = f"{where}:{statement.lineno}: WEIGHTS"
            try:
                return [Read(relative(as_weights(ast.literal_eval(statement.value), at), at))]
            except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
                raise BadInput(f"{at}: expected a map written out in numbers") from None
    raise BadInput(f"{where}: no WEIGHTS in it; expected a module that datamix wrote")


FORM = Form("torchtitan", ".py", write, read)
