"""`longexp-peft eval`: held-out loss of a base model, or of one with an adapter, dense or with what training skipped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from longexp_peft import dataset, merge, needs, shape
from longexp_peft.attention import Past
from longexp_peft.bundle import Bundle
from longexp_peft.methods import Method, Tuned
from longexp_peft.sparse import Prompt, Sparse, Sparsity, check_forward
from longexp_peft.train import evaluate, longest_of, skips
from tenfold_shared import BadInput


class Adapted(Tuned):
    """A model with a finished adapter: nothing trains."""

    def __init__(self, made: Any) -> None:
        peft = made if hasattr(made, "peft_config") else None
        super().__init__(shape.plain(made), Method(), peft, "")
        self.parameters = {}
        kind = "" if peft is None else str(peft.active_peft_config.peft_type).rsplit(".", 1)[-1]
        self.kind = {"PREFIX_TUNING": "prefix", "P_TUNING": "ptuning", "PROMPT_TUNING": "ptuning"}.get(kind, "weights")
        self.virtual = (
            int(peft.active_peft_config.num_virtual_tokens) if peft is not None and self.kind != "weights" else 0
        )

    def prompt(self) -> Prompt | None:
        if self.kind == "weights":
            return None
        assert self.peft is not None
        found = self.peft.get_prompt(batch_size=1)
        if self.kind == "prefix":
            return Prompt(self.virtual, past=[Past(one.keys, one.values) for one in found.layers])
        return Prompt(self.virtual, embeds=found[0])


def run(
    files: Sequence[str], *, uri: str | None, adapter: str | None, bundle: str | None, sparsity: Sparsity, allow_lossy: bool, dtype: str, device: str,
    trust_remote_code: bool, form: str, max_length: int | None, truncate: str, chat_template: str | None, template: str | None, limit: int | None,
    skip_bad: int, batch_tokens: int, as_json: bool, quiet: bool,
) -> int:  # fmt: skip
    """The verb; returns the exit code."""
    if sparsity.mode in ("predicted", "static") and bundle is None:
        raise BadInput(f"--mode {sparsity.mode}: needs --bundle, which `longexp-peft calibrate` makes")
    if sparsity.attention == "blocks" and sparsity.mode not in ("predicted", "static"):
        raise BadInput("--attention blocks: needs --mode predicted or static, whose patterns a bundle has")
    if uri is None and adapter is None:
        raise BadInput("eval: expected --model URI, or --adapter DIR, which names its base model")
    uri = uri or merge.base_of(Path(str(adapter)))
    model, tokenizer = needs.load(uri, dtype, device, trust_remote_code)
    check_forward(model.eval())
    skips(model, sparsity.mode, allow_lossy)
    needs.chat_template(tokenizer, chat_template)
    found = None if bundle is None else Bundle.load(bundle, model)
    tuned = Adapted(model if adapter is None else merge.with_adapter(model, uri, adapter).eval())
    longest = longest_of(max_length, needs.positions(tuned.model) - tuned.virtual, batch_tokens)
    data = dataset.read(
        files, tokenizer, needs.vocabulary(tuned.model), form=form, max_length=longest, truncate=truncate, template=template, limit=limit,
        skip_bad=skip_bad,
    )  # fmt: skip
    if found is not None:
        tuned.reorder([found.order(f.layer) for f in shape.feed_forwards(tuned.model)])
        found.to(tuned.model.device)
    sparse = Sparse(tuned.model, sparsity, found)
    with sparse.attached():
        told = evaluate(sparse, tuned, data, batch_tokens)
    told = {"model": uri, "adapter": adapter, "mode": sparsity.mode, **told}
    if as_json:
        print(json.dumps(told))
    else:
        print(
            f"loss {told['loss']:.4f} a target, perplexity {told['perplexity']:.3f}, over {told['targets']} targets of {told['examples']} examples"
        )
    return 0
