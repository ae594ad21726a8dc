r"""Rewards of a final answer: the paper's two-way substring match, a guarded form of it, and what it is compared with.

LoongRL, arXiv 2510.19363 §3.2.1, equation 3: 1 if the normalised gold is inside the normalised prediction or the
other way round. The final answer is the last `\boxed{}` after the last closing think tag. Every rule takes
(prediction, gold) as text and returns a float; `reward_for` puts extraction, aliases and a rule together.

For trainers: `compute_score` is a reward function of verl, `reward` one of TRL, `trl_reward` makes others. This file
needs nothing but the standard library (mathematics excepted, below), because verl loads a reward function by path:
    custom_reward_function.path=pkg://keychain_synth.reward custom_reward_function.name=compute_score
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

Judge = Callable[[str, str, str], float]  # (question, gold, prediction) -> reward between 0 and 1

# ---------------------------------------------------------------- the final answer of a response

_OPEN, _CLOSE = "<think>", "</think>"
_BOXED = re.compile(r"\\boxed(?![A-Za-z])")
_FBOX = re.compile(r"\\fbox(?![A-Za-z])")
_BRACE = re.compile(r"\\[\s\S]|[{}]")  # an escaped brace opens and closes nothing


def after_thinking(text: str, require_think: bool | None = True) -> str | None:
    """The text after the last closing think tag; None where there should be one and is not.

    require_think: True wants a closing tag (the paper), False does not, None wants it where an opening tag stands.
    """
    _, tag, rest = text.rpartition(_CLOSE)
    if not tag and (require_think or (require_think is None and _OPEN in text)):
        return None
    return rest


def extract(text: str, require_think: bool | None = True) -> str | None:
    r"""The final answer: the content of the last `\boxed` after the thinking, or None.

    Asterisks go first (`**\boxed{x}**`). `\boxed {x}` and `\boxed x` (up to the line's end or a dollar sign) count,
    `\fbox` only where there is no `\boxed`. A last box that is empty or never closes is no answer.
    """
    part = after_thinking(text, require_think)
    if part is None:
        return None
    part = part.replace("*", "")
    boxes = list(_BOXED.finditer(part)) or list(_FBOX.finditer(part))
    if not boxes:
        return None
    rest = part[boxes[-1].end() :]
    if rest.lstrip().startswith("{"):
        return _braced(rest.lstrip())
    return re.split(r"[$\n]", rest, maxsplit=1)[0].strip() or None if rest[:1].isspace() else None


def _braced(text: str) -> str | None:
    """What stands between the brace TEXT begins with and the one that closes it."""
    depth = 0
    for brace in _BRACE.finditer(text):
        depth += {"{": 1, "}": -1}.get(brace.group(), 0)
        if depth == 0:
            return text[1 : brace.start()].strip() or None
    return None


# ---------------------------------------------------------------- normal forms

_ASCII_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalize(text: str) -> str:
    """Lower case, no ASCII punctuation, no articles, single spaces: in this order, which is LoongRL's."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_ASCII_PUNCTUATION)).split())


_STYLED = re.compile(r"\\(?:text(?:bf|it|rm)?|math(?:rm|bf|it)|mbox|emph)\s*\{|[{}]")
_LETTERS = str.maketrans(
    {"ø": "o", "Ø": "o", "ł": "l", "Ł": "l", "đ": "d", "Đ": "d", "æ": "ae", "Æ": "ae", "œ": "oe", "Œ": "oe", "ı": "i"}
    | {"−": "-"}
)
_MARKS = re.compile("[\u0300-\u036f]")  # of the Latin, Greek and Cyrillic scripts; vowel signs of others stay
_MINUS = re.compile(r"(?<!\S)-(?=\d)")
_INSIDE = re.compile(r"(?<=\d)[./:](?=\d)")  # of decimals, fractions, scores and times
_RANGE = re.compile(r"(?<=\d)[-\u2010-\u2015](?=\d)")
_KEPT = {".": "\ue000", "-": "\ue001", "/": "\ue002", ":": "\ue003"}


def _opened(text: str) -> str:
    r"""TEXT without `\text{` and its like and the brace that closes it, in one pass; other braces stay."""
    kept: list[str] = []
    open_braces: list[int] = []  # places in `kept`
    done = 0
    for found in _STYLED.finditer(text):
        sign = found[0]
        kept.append(text[done : found.start()])
        done = found.end()
        if sign == "}":
            begins = open_braces.pop() if open_braces else None
            kept.append("" if begins is not None and kept[begins] == "" else sign)
            continue
        open_braces.append(len(kept))
        kept.append("{" if sign == "{" else "")
    for at in open_braces:  # never closed: it is no box
        kept[at] = kept[at] or "\\text{"
    return "".join([*kept, text[done:]])


def fold(text: str) -> str:
    r"""`normalize`, and before it: `\text{}` opened, compatible characters, diacritics and other scripts' punctuation
    folded. A number's sign and the point, stroke or colon inside one stay, so that 3.5 is not 35, nor 1/2 is 12; of a
    range's two numbers both stay words."""
    text = _opened(text)
    text = _MARKS.sub("", unicodedata.normalize("NFKD", text).translate(_LETTERS))
    text = unicodedata.normalize("NFKC", text).casefold()
    # Kept signs wait as private characters while punctuation goes.
    text = _INSIDE.sub(lambda sign: _KEPT[sign[0]], _RANGE.sub(" ", _MINUS.sub(_KEPT["-"], text)))
    text = "".join(char for char in text if not _is_invisible_or_punctuation(char)).translate(_ASCII_PUNCTUATION)
    text = _ARTICLES.sub(" ", text)
    return " ".join(text.translate({ord(kept): sign for sign, kept in _KEPT.items()}).split())


def _is_invisible_or_punctuation(char: str) -> bool:
    kind = unicodedata.category(char)
    return kind[0] == "P" or kind == "Cf"  # Cf: zero-width spaces, direction marks


# ---------------------------------------------------------------- rules: (prediction, gold) -> reward

_CLOSED = frozenset({"yes", "no", "noanswer"})  # answers that are right only when equal
_NUMBER = re.compile(r"-?\d+(?:[./:]\d+)*(?: \d+(?:[./:]\d+)*)*")
# Words that take back what stands beside them, without their apostrophes.
_HEDGES = frozenset(
    "no not never neither nor or either without except excluding but cant cannot couldnt wouldnt shouldnt dont doesnt "
    "didnt wont hasnt havent hadnt isnt wasnt arent werent aint".split()
)
_EXTRA_TOKENS = 8


def two_way(prediction: str, gold: str) -> float:
    """Equation 3. Characters, not words: "e" is right for "Edward Snowden", and so is "the" (it normalises to "")."""
    found, wanted = normalize(prediction), normalize(gold)
    return float(wanted in found or found in wanted)


def two_way_guarded(prediction: str, gold: str) -> float:
    """Two-way over whole words of `fold`, closed to what exploits equation 3.

    Equal forms are right. Otherwise an empty form, yes, no, noanswer and a bare number, on either side, are wrong.
    The gold inside the prediction: at most 8 words more, none of them a negation or an "or" that the gold lacks. The
    prediction inside the gold: at least 2 words or half of the gold's.
    """
    found, wanted = fold(prediction), fold(gold)
    if not found or not wanted:
        return 0.0
    if found == wanted:
        return 1.0
    if any(form in _CLOSED or _NUMBER.fullmatch(form) for form in (found, wanted)):
        return 0.0
    if _has_words(found, wanted):
        return float(_plain(found, wanted))
    few, many = len(found.split()), len(wanted.split())
    return float(_has_words(wanted, found) and (few >= 2 or 2 * few >= many))


def _has_words(text: str, words: str) -> bool:
    return f" {words} " in f" {text} "


def _plain(found: str, wanted: str) -> bool:
    """Whether FOUND, which holds WANTED, says little besides and does not hedge."""
    more, known = found.split(), wanted.split()
    return len(more) <= len(known) + _EXTRA_TOKENS and _HEDGES.isdisjoint(set(more) - set(known))


def one_way(prediction: str, gold: str) -> float:
    """The gold inside the prediction: the older form."""
    return float(normalize(gold) in normalize(prediction))


def exact(prediction: str, gold: str) -> float:
    return float(normalize(prediction) == normalize(gold))


def f1(prediction: str, gold: str) -> float:
    """Harmonic mean of precision and recall over words; yes, no and noanswer only as a whole."""
    found, wanted = normalize(prediction), normalize(gold)
    if found != wanted and not _CLOSED.isdisjoint((found, wanted)):
        return 0.0
    mine, theirs = Counter(found.split()), Counter(wanted.split())
    same = (mine & theirs).total()
    return 2 * same / (mine.total() + theirs.total()) if same else 0.0


def choice(prediction: str, gold: str) -> float:
    """Options of a multiple choice: the letter in parentheses, or a letter alone or with a point or colon behind it.

    Several different letters are no answer.
    """
    options = [_options(text) for text in (prediction, gold)]
    return float(options[0] == options[1] and len(options[0]) == 1)


def _options(text: str) -> set[str]:
    bare = _opened(text)
    found = re.findall(r"\(([A-Za-z])\)", bare)
    if not found and (alone := re.fullmatch(r"\W*([A-Za-z])(?:[.):].*|\W*)", bare, re.DOTALL)):
        found = [alone[1]]
    return {letter.upper() for letter in found}


RULES: dict[str, Callable[[str, str], float]] = {
    "two-way": two_way,
    "two-way-guarded": two_way_guarded,
    "exact": exact,
    "f1": f1,
    "one-way": one_way,
    "one-way-guarded": one_way,  # `reward_for` adds the guards: they look at the whole response
    "choice": choice,
}
REWARDS = (*RULES, "multi-value", "math", "judge")


# ---------------------------------------------------------------- several golds


def every(prediction: str, golds: Sequence[str], rule: str) -> float:
    """The reward where every gold is required; `two-way` and `one-way` want each inside the prediction.

    `two-way-guarded` wants each as whole words and at most 8 words more than all of them; `exact` and `f1` compare the
    words of all golds, in any order, `exact` without "and".
    """
    if rule not in ("two-way-guarded", "exact", "f1"):
        return float(all(one_way(prediction, gold) for gold in golds))
    # Values are often listed without a space after the comma.
    listed = re.sub(r"[,;]", " ", prediction)
    wanted = [re.sub(r"[,;]", " ", gold) for gold in golds]
    joined = " ".join(wanted)
    if rule == "f1":
        return f1(listed, joined)
    if rule == "exact":
        mine, theirs = (Counter(normalize(text).split()) for text in (listed, joined))
        mine["and"] = theirs["and"]
        return float(mine == theirs)
    form, forms = fold(listed), [fold(gold) for gold in wanted]
    return float(all(gold and _has_words(form, gold) for gold in forms) and _plain(form, " ".join(forms)))


def within_guards(text: str, prediction: str, gold_length: int) -> bool:
    """The one-way form's guards: one box; at most one brace pair and backslash in the answer; the answer at most 128
    characters longer than the gold; at most 32 characters of the response after it."""
    text = text.replace("*", "").strip()
    behind = len(text) - (text.rfind(prediction) + len(prediction))
    return (
        text.count("\\boxed") <= 1
        and max(prediction.count(sign) for sign in "{}\\") <= 1
        and len(prediction) - gold_length <= 128
        and behind <= 32
    )


def reward_for(
    text: str,
    golds: Sequence[str],
    rule: str = "two-way",
    *,
    match: str = "any",
    require_think: bool | None = True,
    judge: Judge | None = None,
    question: str = "",
) -> float:
    """The reward of a whole response; 0 without a final answer or without golds.

    match: `any` takes the best over the golds, `all` wants every one (see `every`); `multi-value` is two-way with
    `all`. judge: the whole reward for the rule `judge`; for other rules it is asked where they give less than 1, and
    the larger of the two counts. Raises ValueError for an unknown rule or match, and for `judge` without one.
    """
    if rule not in REWARDS or match not in ("any", "all"):
        raise ValueError(f"reward {rule!r}, match {match!r}: expected one of {', '.join(REWARDS)}, and any or all")
    if rule == "judge" and judge is None:
        raise ValueError("reward 'judge': expected a function (question, gold, prediction) -> float as judge")
    prediction = extract(text, require_think)
    if prediction is None or not golds:
        return 0.0
    if rule == "multi-value":
        rule, match = "two-way", "all"
    found = 0.0 if rule == "judge" else _ruled(text, prediction, golds, rule, match)
    if judge is not None and found < 1:
        best = min if match == "all" else max
        found = max(found, best(float(judge(question, gold, prediction)) for gold in golds))
    return found


def _ruled(text: str, prediction: str, golds: Sequence[str], rule: str, match: str) -> float:
    if rule == "math":
        # Symbolic comparison is the shared grader's, in processes of its own; it reads the box itself.
        from tenfold_shared.answers import grade

        return float(grade(list(golds), f"\\boxed{{{prediction}}}", match=match).grade == "correct")
    if rule == "one-way-guarded":
        if match == "all":
            golds = golds if within_guards(text, prediction, sum(map(len, golds))) else []
        else:
            golds = [gold for gold in golds if within_guards(text, prediction, len(gold))]
        if not golds:
            return 0.0
    if match == "all":
        return every(prediction, golds, rule)
    return max(RULES[rule](prediction, gold) for gold in golds)


def as_golds(answer: Any) -> list[str]:
    """A gold answer as a list: text, a number, a list of them, or the array a parquet reader makes of a list.

    Raises TypeError for anything else: as text it would match answers by chance.
    """
    if hasattr(answer, "tolist"):
        answer = answer.tolist()
    if not isinstance(answer, (list, tuple)):
        answer = [answer]
    for one in answer:
        if not isinstance(one, str | int | float | None):
            raise TypeError(f"gold answer: expected text, a number or a list of them, got {type(one).__name__}")
    return [str(one) for one in answer if one is not None and str(one).strip()]


# ---------------------------------------------------------------- RULER


def string_match(response: str, golds: Sequence[str], match: str) -> float:
    """How many of the golds stand in the response, without case: a share (RULER's string_match_all), or for `any` 1
    from one on (its string_match_part)."""
    folded = response.lower()
    found = sum(gold.lower() in folded for gold in golds)
    return found / len(golds) if match == "all" else float(found > 0)


# ---------------------------------------------------------------- verl

SOURCES = {
    "custom_longcontextqa_": "two-way",
    "custom_longcontext_needle_qa_": "two-way",
    "custom_rulerniah_": "multi-value",
    "custom_sentence_needle_": "one-way",
    "custom_mathqa_choice_": "choice",
    "custom_math_": "math",
}


def rule_of(data_source: str) -> str:
    """The reward LoongRL gives rows of this source. Raises ValueError for one it does not have."""
    for prefix, rule in SOURCES.items():
        if data_source.startswith(prefix):
            return rule
    raise ValueError(
        f"data_source {data_source!r}: expected one that begins with {', '.join(SOURCES)}; or name the reward in "
        "extra_info['reward']"
    )


def rule_for(meta: dict[str, Any], rule: str | None) -> str:
    """The rule as given; without one LoongRL's for rows of `meta.data_source`, two-way where there is none of its."""
    source = meta.get("data_source")
    if rule is None and isinstance(source, str) and source.startswith(tuple(SOURCES)):
        return rule_of(source)
    return rule or "two-way"


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: dict[str, Any] | None = None,
    *,
    reward: str | None = None,
    require_think: bool | None = True,
    judge: Judge | None = None,
    **_: Any,
) -> float:
    """verl's custom reward function. The rule: extra_info["reward"], else `reward`, else by data_source.

    verl calls it with the four leading names (its prime manager by position), adds what
    `custom_reward_function.reward_kwargs` holds, and may add keywords of its own, which are ignored. ground_truth is
    `reward_model.ground_truth` of the row: text or a list. extra_info may also hold `match` (any, all),
    `require_think`, and `question` or `input_question` for the judge; nulls count as absent.
    """
    info = {name: value for name, value in (extra_info or {}).items() if value is not None}
    return reward_for(
        solution_str,
        as_golds(ground_truth),
        info.get("reward") or reward or rule_of(data_source),
        match=info.get("match", "any"),
        require_think=info.get("require_think", require_think),
        judge=judge,
        question=info.get("question", info.get("input_question", "")),
    )


# ---------------------------------------------------------------- TRL


def with_reasoning(content: str, reasoning: str | None) -> str:
    """A response whose thinking a server or template has split off, as one text again."""
    return f"{_OPEN}{reasoning}{_CLOSE}{content}" if reasoning else content


def completion_text(completion: str | Sequence[dict[str, Any]]) -> str:
    """The text of a completion as TRL hands it over: text, or messages, of which the last one answers."""
    if isinstance(completion, str):
        return completion
    message = completion[-1] if completion else {}
    reasoning = message.get("reasoning_content") or message.get("thinking")
    return with_reasoning(_content(message), reasoning)


def _content(message: dict[str, Any]) -> str:
    content = message.get("content") or ""
    return content if isinstance(content, str) else "".join(part.get("text") or "" for part in content)


def _question(prompt: str | Sequence[dict[str, Any]]) -> str:
    if isinstance(prompt, str):
        return prompt
    return next((_content(turn) for turn in reversed(prompt) if turn.get("role") == "user"), "")


def trl_reward(
    rule: str | None = None, *, require_think: bool | None = True, judge: Judge | None = None
) -> Callable[..., list[float | None]]:
    """A reward function for TRL's GRPOTrainer and RLOOTrainer.

    They call it with keywords alone: prompts, completions, completion_ids, trainer objects, and each column of the data
    set as a list. Used here: `answer` (text or list; null or empty: the reward is None, which TRL leaves out),
    `meta` (its `match`), and, without a rule, `data_source` where it is one of LoongRL's.
    """

    def reward(completions: Sequence[Any], answer: Sequence[Any], **columns: Any) -> list[float | None]:
        rows = len(completions)
        sources, metas, prompts = (columns.get(name) or [None] * rows for name in ("data_source", "meta", "prompts"))
        rewards: list[float | None] = []
        for completion, gold, source, meta, prompt in zip(completions, answer, sources, metas, prompts, strict=True):
            golds = as_golds(gold)
            if not golds:
                rewards.append(None)
                continue
            known = source is not None and source.startswith(tuple(SOURCES))
            rewards.append(
                reward_for(
                    completion_text(completion),
                    golds,
                    rule or (rule_of(source) if known else "two-way"),
                    match=(meta or {}).get("match") or "any",
                    require_think=require_think,
                    judge=judge,
                    question=_question(prompt or ""),
                )
            )
        return rewards

    return reward


reward = trl_reward()
