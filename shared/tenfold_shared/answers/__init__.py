r"""Final answers: find them in a response, name them for votes, grade them against a gold.

Sits on `pool.py`; every tool that grades calls `grade`. Three steps, each usable alone:
`extract` (cut the thinking, take the box), `key` (one canonical string per answer), `grade`
(exact comparison where it is certain, math-verify in a killable worker process otherwise).

Decisions follow math-verify 0.9 on the extracted answer, `verify(gold, answer)` in that order. The
exact paths (numbers with units, words, sums of roots, powers of pi and letters, lists of them)
answer only what they are certain math-verify decides alike; the rest goes to the worker.
Decisions differ from it on purpose in four places:
- an answer counts only inside a complete `\boxed{}` (or `\fbox{}`) after the last closing think
  tag; an unterminated last box is no answer (`require_box=False` admits phrases and numbers);
- a gold made of words ("yes", `\text{Evelyn}`) is compared as text, never as a product of symbols;
- integers of any length are compared exactly, and a full stop that ends the answer is dropped;
- where math-verify could not read the gold or the answer, or the deadline passed, the grade is
  "ungradable" (not correct, and counted apart), where math-verify says False.

The tolerance is math-verify's: a decimal equals a number that is the same after both are rounded to
6 decimals, so 0.333333 answers 1/3 and 0.33 does not. A percentage equals its value and, when both
are integers, its number: 10\% is answered by 0.1 and by 10. Units after a number are ignored.

extraction.py finds, canonical.py names, closed_forms.py and comparison.py compare one pair,
grading.py grades responses, one or many.
"""

from tenfold_shared.answers.canonical import key
from tenfold_shared.answers.comparison import forget
from tenfold_shared.answers.extraction import MAX_ANSWER, after_thinking, boxes, extract
from tenfold_shared.answers.grading import Comparison, Grade, grade, grade_in_turn, grade_many

__all__ = [
    "MAX_ANSWER",
    "Comparison",
    "Grade",
    "after_thinking",
    "boxes",
    "extract",
    "forget",
    "grade",
    "grade_in_turn",
    "grade_many",
    "key",
]
