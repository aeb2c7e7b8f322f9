"""Small questions with one-word answers that a program can grade.

In: a number and a seed. Out: distinct questions of six kinds, from what a tiny model knows to what
it does not, each with its answer; and the few-shot prompt they are asked in.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

CAPITALS = {
    "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Germany": "Berlin", "Japan": "Tokyo",
    "China": "Beijing", "Russia": "Moscow", "Egypt": "Cairo", "Greece": "Athens", "Peru": "Lima",
    "Cuba": "Havana", "Norway": "Oslo", "Sweden": "Stockholm", "Finland": "Helsinki",
    "Austria": "Vienna", "Poland": "Warsaw", "Portugal": "Lisbon", "Ireland": "Dublin",
    "Kenya": "Nairobi", "Canada": "Ottawa", "Turkey": "Ankara", "Iran": "Tehran",
    "Iraq": "Baghdad", "Hungary": "Budapest", "Denmark": "Copenhagen", "Belgium": "Brussels",
    "Thailand": "Bangkok", "Vietnam": "Hanoi", "Chile": "Santiago", "Ukraine": "Kyiv",
}  # fmt: skip
OPPOSITES = {
    "hot": "cold", "big": "small", "up": "down", "left": "right", "open": "closed", "day": "night",
    "wet": "dry", "fast": "slow", "old": "new", "hard": "soft", "early": "late", "rich": "poor",
    "happy": "sad", "light": "dark", "full": "empty", "strong": "weak", "high": "low",
    "true": "false", "near": "far", "loud": "quiet", "clean": "dirty", "front": "back",
}  # fmt: skip
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
SHOTS = """\
Q: What is the capital of Brazil?
A: Brasilia
Q: What is 2 + 3?
A: 5
Q: Which is larger, 14 or 9?
A: 14
Q: What is the opposite of young?
A: old
"""


@dataclass(frozen=True)
class Question:
    """A question, its kind and its answer."""

    kind: str
    text: str
    answer: str


def _capital(dice: random.Random) -> Question:
    country = dice.choice(sorted(CAPITALS))
    forms = ("What is the capital of {}?", "Name the capital city of {}.", "{}: its capital is?")
    return Question("capital", dice.choice(forms).format(country), CAPITALS[country])


def _opposite(dice: random.Random) -> Question:
    word = dice.choice(sorted(OPPOSITES))
    forms = ("What is the opposite of {}?", 'Give the antonym of "{}".', "The contrary of {} is?")
    return Question("opposite", dice.choice(forms).format(word), OPPOSITES[word])


def _sum(dice: random.Random) -> Question:
    top = dice.choice((9, 9, 60))
    a, b = dice.randint(1, top), dice.randint(1, top)
    return Question("sum", f"What is {a} + {b}?", str(a + b))


def _larger(dice: random.Random) -> Question:
    a, b = dice.sample(range(2, 200), 2)
    return Question("larger", f"Which is larger, {a} or {b}?", str(max(a, b)))


def _day(dice: random.Random) -> Question:
    at, after = dice.randrange(7), dice.random() < 0.7
    word = "after" if after else "before"
    asked = dice.choice(("Which day comes {} {}?", "What day is {} {}?")).format(word, DAYS[at])
    return Question("day", asked, DAYS[(at + (1 if after else -1)) % 7])


def _letter(dice: random.Random) -> Question:
    at = dice.randrange(25)
    asked = f"Which letter follows {chr(65 + at)} in the alphabet?"
    return Question("letter", asked, chr(66 + at))


KINDS: tuple[Callable[[random.Random], Question], ...] = (
    _capital, _opposite, _sum, _larger, _day, _letter,
)  # fmt: skip


def questions(n: int, seed: int = 0) -> list[Question]:
    """`n` distinct questions, the kinds in turn as long as they last."""
    dice = random.Random(seed)
    found: dict[str, Question] = {}
    while len(found) < n:
        # Small kinds run out of distinct questions; sums and comparisons do not.
        kind = (
            KINDS[len(found) % len(KINDS)] if dice.random() < 0.8 else dice.choice((_sum, _larger))
        )
        question = kind(dice)
        found.setdefault(question.text, question)
    return list(found.values())


def prompt(question: Question) -> str:
    """The few-shot prompt of a completions call."""
    return f"{SHOTS}Q: {question.text}\nA:"


def grade(question: Question, said: str) -> bool:
    """Whether the first word said is the answer."""
    word = re.match(r"\W*(\w+)", said)
    return bool(word) and word.group(1).lower() == question.answer.lower()
