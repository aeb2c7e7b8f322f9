"""Prompts of a wanted length whose leading tokens no other prompt has.

In: L_in in tokens and a random generator. Out: text. Common English words are about a token each;
how many a word really is, and what the chat template adds, two probe requests tell:
tokens = overhead + rate·words. Every word is drawn anew, so no prefix cache can help.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files

import numpy as np

from cr2fast_profiler.errors import RunError

# Short common words, one token each in most vocabularies.
WORDS = files(__package__).joinpath("words.txt").read_text(encoding="ascii").split()

INSTRUCTION = "\nCount from 1 upwards, one number a line, and do not stop."


@dataclass(frozen=True)
class Prompts:
    """Makes prompts for one model.

    Attributes
    ----------
    overhead : float
        Tokens of the template and the instruction.
    rate : float
        Tokens a word.
    """

    overhead: float
    rate: float

    @classmethod
    def from_probes(cls, words: tuple[int, int], tokens: tuple[int, int]) -> Prompts:
        """Solve tokens = overhead + rate·words from two requests.

        Parameters
        ----------
        words, tokens : (int, int)
            Words sent and L_in counted by the server, of each probe.
        """
        rate = (tokens[1] - tokens[0]) / (words[1] - words[0])
        if not 0.2 <= rate <= 10:
            raise RunError(
                f"the server counts {tokens[0]} tokens for {words[0]} words and {tokens[1]} for "
                f"{words[1]}: expected between 0.2 and 10 tokens a word; is usage.prompt_tokens "
                "what it should be?"
            )
        return cls(tokens[0] - rate * words[0], rate)

    @property
    def shortest(self) -> int:
        """Least L_in, tokens: three words."""
        return int(np.ceil(self.overhead + 3 * self.rate))

    def make(self, n_tokens: int, rng: np.random.Generator) -> str:
        """A prompt of about `n_tokens` tokens."""
        n_words = round((n_tokens - self.overhead) / self.rate)
        if n_words < 3:
            raise RunError(
                f"L_in = {n_tokens} is too short: template and instruction take "
                f"{self.overhead:.0f} tokens already; the shortest prompt has {self.shortest}"
            )
        return words_prompt(n_words, rng)


def words_prompt(n_words: int, rng: np.random.Generator) -> str:
    """`n_words` random words, then the instruction."""
    return " ".join(WORDS[i] for i in rng.integers(len(WORDS), size=n_words)) + INSTRUCTION
