"""Makes strings.jsonl: problems whose answer is a word, a date, a list of words, and no number, so that a model is measured on something other than mathematics.

Each problem comes with a program that solves it; the answer is what that program printed when it was run here, never what its author thought. The programs stay in `meta.program`, so that anyone can run them again:

    python make_strings.py > strings.jsonl
    python make_strings.py 200 7 > more.jsonl      (how many, and the seed)

`meta.compare` is "text": case, spaces, quotes and \\text{} do not matter, but "act" is no "cat". Nothing but the standard library is needed.
"""

import json
import random
import subprocess
import sys

WORDS = "amber basket candle dragon engine forest garden harbor island jungle kettle ladder marble needle orange pencil quartz ribbon silver timber umbrella velvet window yellow zipper".split()
SHORT = "cat dog fig sun map pen owl ink jam log net oak pit rug tap urn van wax yak zoo".split()
NAMES = "Ada Boris Chloe Dmitri Elena Farid Greta Hugo Ines Jonas".split()


def some(rng, count, words=WORDS):
    return rng.sample(words, count)


def reverse(rng):
    text = " ".join(some(rng, 2))
    return f'Write the text "{text}" backwards, letter by letter.', f"print({text!r}[::-1])"


def short(rng):
    word = some(rng, 1, SHORT)[0]
    return f"Write the word {word} backwards.", f"print({word!r}[::-1])"


def order(rng):
    words = some(rng, 6)
    return (
        f"Sort these words by their last letter, words with the same last letter alphabetically: {', '.join(words)}. Give them separated by commas.",
        f"words = {words!r}\nprint(', '.join(sorted(words, key=lambda w: (w[-1], w))))",
    )


def caesar(rng):
    text, shift = " ".join(some(rng, 2)), rng.randrange(3, 23)
    return (
        f'Encrypt "{text}" with a Caesar cipher that moves each letter {shift} places forward in the alphabet; spaces stay.',
        f"print(''.join(chr((ord(c) - 97 + {shift}) % 26 + 97) if c != ' ' else c for c in {text!r}))",
    )


def decipher(rng):
    word, shift = some(rng, 1)[0], rng.randrange(3, 23)
    secret = "".join(chr((ord(c) - 97 + shift) % 26 + 97) for c in word)
    return (
        f'"{secret}" was made with a Caesar cipher that moved each letter {shift} places forward. What was the word?',
        f"print(''.join(chr((ord(c) - 97 - {shift}) % 26 + 97) for c in {secret!r}))",
    )


def weekday(rng):
    year, month, day = rng.randrange(1900, 2100), rng.randrange(1, 13), rng.randrange(1, 29)
    return (
        f"On which day of the week did or does {year}-{month:02}-{day:02} fall?",
        f"import datetime\nprint(datetime.date({year}, {month}, {day}).strftime('%A'))",
    )


def later(rng):
    year, month, day, days = (
        rng.randrange(1990, 2040),
        rng.randrange(1, 13),
        rng.randrange(1, 29),
        rng.randrange(40, 900),
    )
    return (
        f"Which date is {days} days after {year}-{month:02}-{day:02}? Write it as YYYY-MM-DD.",
        f"import datetime\nprint(datetime.date({year}, {month}, {day}) + datetime.timedelta({days}))",
    )


def both(rng):
    shared, left, right = some(rng, 2), some(rng, 4), some(rng, 4)
    one, other = [*left, *shared], [*right, *shared]
    rng.shuffle(one)
    rng.shuffle(other)
    return (
        f"Which words stand in both lists? First: {', '.join(one)}. Second: {', '.join(other)}. Give each once, in alphabetical order, separated by commas.",
        f"print(', '.join(sorted(set({one!r}) & set({other!r}))))",
    )


def table(rng):
    rows = [(name, rng.choice(WORDS), rng.randrange(10, 99)) for name in some(rng, 6, NAMES)]
    text = "name,thing,count\n" + "\n".join(",".join(map(str, row)) for row in rows)
    return (
        (
            f"In this table, which thing does the row with the second largest count name?\n{text}",
            f"import csv, io\nrows = list(csv.DictReader(io.StringIO({text!r})))\nprint(sorted(rows, key=lambda row: int(row['count']))[-2]['thing'])",
        )
        if len({row[2] for row in rows}) == len(rows)
        else table(rng)
    )


def commonest(rng):
    text = " ".join(some(rng, 7))
    counts = sorted((text.count(c) for c in set(text) - {" "}), reverse=True)
    return (
        (
            f'Which letter stands most often in "{text}"?',
            f"import collections\nprint(collections.Counter({text!r}.replace(' ', '')).most_common(1)[0][0])",
        )
        if counts[0] > counts[1]
        else commonest(rng)
    )


def vowels(rng):
    text = " ".join(some(rng, 3))
    return (
        f'Leave all vowels (a, e, i, o, u) out of "{text}".',
        f"print(''.join(c for c in {text!r} if c not in 'aeiou'))",
    )


def runs(rng):
    text = "".join(rng.choice("abc") * rng.randrange(1, 5) for _ in range(5))
    return (
        f'Write "{text}" in run-length form: each run of one letter as that letter and the run\'s length, so that aab is a2b1.',
        f"import itertools\nprint(''.join(c + str(len(list(g))) for c, g in itertools.groupby({text!r})))",
    )


def roman(rng):
    number = rng.randrange(40, 3999)
    return (
        f"Write {number} as a Roman numeral.",
        f"n, out = {number}, ''\nfor value, sign in zip((1000, 900, 500, 400, 100, 90, 50, 40, 10, 9, 5, 4, 1), 'M CM D CD C XC L XL X IX V IV I'.split()):\n    while n >= value:\n        n, out = n - value, out + sign\nprint(out)",
    )


def palindrome(rng):
    word = some(rng, 1, SHORT)[0]
    text = word + word[::-1] if rng.randrange(2) else word + word[1:] + word[0]
    return (
        f'Is "{text}" the same read backwards? Answer yes or no.',
        f"text = {text!r}\nprint('yes' if text == text[::-1] else 'no')",
    )


def initials(rng):
    words = some(rng, 5)
    return (
        f"Write down the second letter of each of these words, in this order and without spaces: {', '.join(words)}.",
        f"print(''.join(word[1] for word in {words!r}))",
    )


def codes(rng):
    word = some(rng, 1)[0]
    bits = " ".join(f"{ord(c):08b}" for c in word)
    return f"Read these bytes as ASCII: {bits}", f"print(''.join(chr(int(b, 2)) for b in {bits!r}.split()))"


KINDS = (reverse, short, order, caesar, decipher, weekday, later, both, table, commonest, vowels, runs, roman, palindrome, initials, codes)  # fmt: skip


def main(count=48, seed=0):
    rng, seen = random.Random(seed), set()
    while len(seen) < count:
        kind = KINDS[len(seen) % len(KINDS)]
        prompt, program = kind(rng)
        if prompt in seen:
            continue
        done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
        record = {
            "schema": "task/1", "id": f"{kind.__name__}-{len(seen) // len(KINDS)}", "prompt": prompt, "answer": done.stdout.strip(),
            "meta": {"compare": "text", "kind": kind.__name__, "program": program},
        }  # fmt: skip
        seen.add(prompt)
        print(json.dumps(record))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
