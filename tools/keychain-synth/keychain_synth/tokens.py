"""Counting tokens and rendering chats as the model's own tokenizer does, without loading a model.

Sits under corpus.py and row.py. A tokenizer is a `tokenizers` file (tokenizer.json) with its chat template beside it;
the template is rendered here with jinja2 in the way transformers does it, so that no torch is needed to make rows. A
hub id, or a folder without tokenizer.json, goes through transformers' AutoTokenizer once ([hf]) and is then the same.
"""

from __future__ import annotations

import bisect
import datetime
import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tenfold_shared import BadInput, Missing
from tenfold_shared.jsonl import read_text

_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_MARK = re.compile(r"<\|[^|<>\s]{1,40}\|>|</?s>|<</?SYS>>|\[/?[A-Z][A-Z_]{2,30}\]|<(?:start|end)_of_\w{1,20}>")
# Templates that print today's date must give the same bytes tomorrow.
_TODAY = datetime.datetime(2026, 1, 1)


class Tokenizer:
    """name: as given; digest: of vocabulary and merges; longest: the model's own limit in tokens, None if not said."""

    def __init__(self, uri: str) -> None:
        import tokenizers

        self.name = uri
        self.folder = folder(uri)
        raw = read_text(str(self.folder / "tokenizer.json"))
        try:
            self._inner = tokenizers.Tokenizer.from_str(raw)
        except Exception as error:  # the library raises bare Exceptions
            raise BadInput(f"{self.folder}/tokenizer.json: cannot be read: {error}") from None
        # What a trainer's file may have switched on would cut or pad what is to be counted.
        self._inner.no_truncation()
        self._inner.no_padding()
        self.digest = hashlib.sha256(raw.encode()).hexdigest()
        config = _json(self.folder / "tokenizer_config.json")
        found = config.get("model_max_length")
        self.longest = int(found) if isinstance(found, int | float) and 0 < found < 1e9 else None
        self._variables = {name: _text(config[name]) for name in _SPECIAL if config.get(name)}
        self._template_source = _template(self.folder, config)
        self._template: Any = None
        special = {token.content for token in self._inner.get_added_tokens_decoder().values() if token.special}
        # A template's own marks need not be tokens of their own, as "[INST]" is not in some.
        controls = special | set(_MARK.findall(self._template_source or ""))
        self.controls = sorted(controls, key=lambda text: (-len(text), text))
        self._controls = re.compile("|".join(map(re.escape, self.controls)) or r"(?!)")

    @property
    def chats(self) -> bool:
        """Whether it has a chat template."""
        return self._template_source is not None

    def defuse(self, text: str) -> str:
        """TEXT with a space inside each control token, so that no document can end a turn."""
        return self._controls.sub(lambda match: f"{match[0][:1]} {match[0][1:]}", text)

    @property
    def template_digest(self) -> str | None:
        """sha256 of the chat template; None without one."""
        source = self._template_source
        return None if source is None else hashlib.sha256(source.encode()).hexdigest()

    def render(self, messages: Sequence[dict[str, str]]) -> str:
        """The chat as one string, generation prompt included. Raises BadInput where the template refuses it."""
        try:
            if self._template is None:
                self._template = _compile(self._template_source or "")
            return self._template.render(
                messages=messages, add_generation_prompt=True, tools=None, documents=None, **self._variables
            )
        except Exception as error:  # a template is the model's own code
            refused = type(error).__name__ == "TemplateError" and messages[0]["role"] == "system"
            hint = "; is it the system prompt? --system-file none leaves it out" if refused else ""
            raise BadInput(f"{self.name}: its chat template refuses the messages: {error}{hint}") from None

    def place_of(self, content: str, rendered: str) -> int:
        """Where CONTENT begins in the rendered chat, though the template may trim it or change its case.

        Raises BadInput where it is not there: then no place in the prompt could be told.
        """
        bare = content.strip()
        at = rendered.find(bare)
        if at < 0 and len(rendered) == len(rendered.casefold()):
            at = rendered.casefold().find(bare.casefold())
        if at < 0:
            raise BadInput(f"{self.name}: its chat template changes the messages' text; --prompt makes raw prompts")
        return at - (len(content) - len(content.lstrip()))

    @staticmethod
    def tokens_at(encoding: Any, places: Sequence[int], end: int) -> list[int]:
        """The token of ENCODING in which each place of its text lies; end: the text's length."""
        offsets = encoding.offsets
        return [max(0, bisect.bisect_right(offsets, (place, end)) - 1) for place in places]

    def counts(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, alone and without special tokens."""
        try:
            return [len(found) for found in self._inner.encode_batch_fast(list(texts), add_special_tokens=False)]
        except Exception as error:  # the library raises bare Exceptions, for an unknown word without an unknown token
            raise BadInput(f"{self.name}: its tokenizer fails on a text: {error}") from None

    def encode(self, text: str, special: bool) -> Any:
        """`tokenizers.Encoding` of a finished prompt; special: what the tokenizer itself puts around a raw prompt."""
        try:
            return self._inner.encode(text, add_special_tokens=special)
        except Exception as error:
            raise BadInput(f"{self.name}: its tokenizer fails on a text: {error}") from None


def folder(uri: str) -> Path:
    """The folder that holds tokenizer.json. Raises BadInput, or Missing where transformers is needed."""
    from tenfold_shared import models

    path = Path(uri).expanduser()
    if path.name == "tokenizer.json" and path.is_file():
        return path.parent
    if (path / "tokenizer.json").is_file():
        return path
    try:
        place = Path(models.resolve(uri).path)
    except BadInput as error:
        raise BadInput(str(error).replace("--model", "--tokenizer", 1)) from None
    if (place / "tokenizer.json").is_file():
        return place
    return _through_transformers(str(place), uri)


def _through_transformers(name: str, uri: str) -> Path:
    from tenfold_shared.cache import cache_dir

    # The hash, as a-b/c and a/b-c would be one otherwise.
    words, digest = re.sub(r"\W+", "-", name)[-80:], hashlib.sha256(name.encode()).hexdigest()[:12]
    target = cache_dir() / "tokenizers" / f"{words}-{digest}"
    if (target / "tokenizer.json").is_file():
        return target
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise Missing(f"{uri}: transformers is not installed: pip install 'keychain-synth[hf]'") from None
    try:
        AutoTokenizer.from_pretrained(name).save_pretrained(target)
    except Exception as error:  # network, a name that does not exist, a broken file
        raise BadInput(f"{uri}: no tokenizer there: {' '.join(str(error).split())[:200]}") from None
    if not (target / "tokenizer.json").is_file():
        raise BadInput(f"{uri}: its tokenizer has no fast form (tokenizer.json)")
    return target


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}: not JSON: {error}") from None
    return found if isinstance(found, dict) else {}


def _text(token: Any) -> str:
    return str(token["content"]) if isinstance(token, dict) else str(token)


def _template(place: Path, config: dict[str, Any]) -> str | None:
    if (place / "chat_template.jinja").is_file():
        return read_text(str(place / "chat_template.jinja"))
    found = config.get("chat_template")
    if isinstance(found, list):  # several by name
        found = {each.get("name"): each.get("template") for each in found if isinstance(each, dict)}.get("default")
    return found if isinstance(found, str) else None


def _compile(source: str) -> Any:
    """As transformers compiles them: sandboxed, with its two functions and its tojson."""
    import jinja2
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    def to_json(value: Any, indent: int | None = None, **more: Any) -> str:
        return json.dumps(value, ensure_ascii=False, indent=indent)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = to_json
    environment.globals.update(raise_exception=refuse, strftime_now=_TODAY.strftime)
    return environment.from_string(source)
