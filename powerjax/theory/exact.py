"""Tabular autoregressive models, small enough that every completion can be written down.

Here are the self-reward of Eq. 1 (`log_joint`), pi_alpha by Eq. 4 and 6 (`powered`), the
token-temperature law of Eq. 5 (`tempered`) and the prefix totals of Eq. 8 (`log_prefix_totals`).

Letters: V vocabulary, T longest completion, Y completions. A is the number of live tokens, after
which a completion goes on: V, or V-1 where the last token is EOS. A prefix is live if all its
tokens are. Prefixes of t tokens are numbered in base A, the first token being the highest digit:
with A = 3, prefix (2, 1) is row 7 of the table of depth 2, and its continuations are the rows 21,
22 and 23 of the table of depth 3. Completions are ordered by length, then prefix, then last token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from powerjax.theory import laws
from powerjax.theory.enumeration import check_size, count_completions, sum_along


@dataclass(frozen=True, repr=False, eq=False)
class TabularModel:
    """The next-token law of every live prefix: a policy, a target or a proposal.

    Attributes:
      log_p: one table for each depth t = 0..T-1, float64 [A^t, V] of log-probabilities.
      eos: whether the last token of the vocabulary is EOS, which ends a completion. A completion
        without EOS is cut at T tokens.

    Raises ValueError for tables of wrong shape, rows that do not sum to 1, and too large a model.
    """

    log_p: tuple[np.ndarray, ...]
    eos: bool = False

    def __post_init__(self) -> None:
        tables = [np.asarray(table, dtype=np.float64) for table in self.log_p]
        if not tables or tables[0].ndim != 2:
            raise ValueError("a model needs at least one table, log_p[0] of shape [1, V]")
        vocab_size = tables[0].shape[1]
        check_size(vocab_size, len(tables), self.eos)
        live = vocab_size - self.eos
        for t, table in enumerate(tables):
            if table.shape != (live**t, vocab_size):
                raise ValueError(
                    f"the table of depth {t} must have shape {(live**t, vocab_size)}, "
                    f"got {table.shape}"
                )
            laws.check_log_law(table, f"the next-token table of depth {t}")
        object.__setattr__(self, "log_p", tuple(tables))

    @classmethod
    def from_probs(cls, tables: Sequence[np.ndarray], eos: bool = False) -> TabularModel:
        """Makes a model of probabilities, [A^t, V] for each depth t. Zeros are legal."""
        if any((np.asarray(table) < 0).any() for table in tables):
            raise ValueError("a next-token table holds a negative probability")
        return cls(tuple(laws.log_of(table) for table in tables), eos)

    @classmethod
    def from_logits(cls, tables: Sequence[np.ndarray], eos: bool = False) -> TabularModel:
        """Makes a model of logits, [A^t, V] for each depth t; -inf is a probability of zero."""
        return cls(tuple(laws.normalise(np.asarray(t, dtype=np.float64)) for t in tables), eos)

    @classmethod
    def from_function(
        cls,
        next_logits: Callable[[tuple[int, ...]], Sequence[float]],
        vocab_size: int,
        length: int,
        eos: bool = False,
    ) -> TabularModel:
        """Makes a model of a function from a prefix to V logits, called once per live prefix."""
        check_size(vocab_size, length, eos)
        live = range(vocab_size - eos)
        prefixes: list[tuple[int, ...]] = [()]
        tables = []
        for _ in range(length):
            tables.append(np.array([next_logits(prefix) for prefix in prefixes], dtype=np.float64))
            prefixes = [(*prefix, token) for prefix in prefixes for token in live]
        return cls.from_logits(tables, eos)

    @classmethod
    def random(
        cls,
        rng: np.random.Generator,
        vocab_size: int,
        length: int,
        eos: bool = False,
        scale: float = 1.0,
        zeros: float = 0.0,
    ) -> TabularModel:
        """Makes a model of N(0, scale^2) logits; a share `zeros` of tokens has probability zero."""
        check_size(vocab_size, length, eos)
        tables = []
        for t in range(length):
            logits = scale * rng.standard_normal(((vocab_size - eos) ** t, vocab_size))
            dead = rng.random(logits.shape) < zeros
            dead[np.arange(len(dead)), rng.integers(vocab_size, size=len(dead))] = False
            tables.append(np.where(dead, -np.inf, logits))
        return cls.from_logits(tables, eos)

    @classmethod
    def from_law(cls, log_law: np.ndarray, like: TabularModel) -> TabularModel:
        """Makes the model whose completions have the log-law [Y], in the shape of `like`.

        If the law is a data set's frequencies, the model is its maximum-likelihood fit (Eq. 16).
        The next-token law after a prefix without mass is free; it is set uniform.
        """
        tables = []
        for mass in like.sum_by_prefix(log_law)[1:]:
            total = laws.log_sum_exp(mass)[:, None]
            with np.errstate(invalid="ignore"):
                tables.append(np.where(np.isneginf(total), -np.log(like.vocab_size), mass - total))
        return cls(tuple(tables), like.eos)

    def __repr__(self) -> str:
        return (
            f"TabularModel(vocab_size={self.vocab_size}, length={self.length}, eos={self.eos}, "
            f"{self.num_completions:,} completions)"
        )

    @property
    def vocab_size(self) -> int:
        return self.log_p[0].shape[1]

    @property
    def length(self) -> int:
        return len(self.log_p)

    @property
    def num_live(self) -> int:
        """A, the number of tokens after which a completion goes on."""
        return self.vocab_size - self.eos

    @property
    def num_completions(self) -> int:
        """Y, the number of completions."""
        return count_completions(self.vocab_size, self.length, self.eos)

    def live(self, by_token: np.ndarray) -> np.ndarray:
        """Returns the entries [A^(t+1)] of the live tokens of a table [A^t, V].

        A prefix and a live token make a live prefix one token longer, so these are its entries.
        """
        return by_token[:, : self.num_live].reshape(-1)

    def suffix_log_laws(self, depth: int) -> np.ndarray:
        """Returns log q(z | prefix) of all suffixes z, [A^depth, suffixes per prefix]."""
        return sum_along(self.log_p, self.eos, depth)

    def log_joint(self) -> np.ndarray:
        """Returns log pi(y), [Y]: the self-reward of Eq. 1, a sum over the tokens of y."""
        return self.suffix_log_laws(0)[0]

    def completions(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns tokens, int [Y, T], -1 after the end, and lengths, int [Y], EOS counted."""
        tokens = np.full((self.num_completions, self.length), -1)
        lengths = np.full(self.num_completions, self.length)
        start = 0
        for t in range(self.length):
            last = t == self.length - 1
            if not last and not self.eos:
                continue
            final = np.arange(self.vocab_size) if last else np.array([self.vocab_size - 1])
            prefix, token = np.divmod(np.arange(self.num_live**t * len(final)), len(final))
            block = slice(start, start + len(prefix))
            for d in range(t):
                tokens[block, d] = prefix // self.num_live ** (t - 1 - d) % self.num_live
            tokens[block, t] = final[token]
            lengths[block] = t + 1
            start = block.stop
        return tokens, lengths

    def after(self, prefix: Sequence[int]) -> TabularModel:
        """Returns the model of the suffix after a prefix. Raises ValueError if it is not live."""
        if len(prefix) >= self.length or any(not 0 <= s < self.num_live for s in prefix):
            raise ValueError(
                f"prefix {tuple(prefix)} is not live: give fewer than {self.length} tokens, each "
                f"in 0..{self.num_live - 1}"
            )
        row = 0
        for token in prefix:
            row = row * self.num_live + token
        tables = []
        for d, table in enumerate(self.log_p[len(prefix) :]):
            size = self.num_live**d
            tables.append(table[row * size : (row + 1) * size])
        return TabularModel(tuple(tables), self.eos)

    def sum_by_prefix(self, log_mass: np.ndarray) -> tuple[np.ndarray, ...]:
        """Sums masses, given as logarithms [Y], over the completions that share a prefix.

        Returns T+1 arrays of logarithms. Array 0 is the total, [1, 1]. Array t >= 1 is
        [A^(t-1), V]: the mass of completions that begin with a prefix of t-1 tokens and token t.
        """
        sums: list[np.ndarray] = []
        stop = self.num_completions
        for t in reversed(range(self.length)):
            rows = self.num_live**t
            if not sums:
                stop -= rows * self.vocab_size
                sums.append(log_mass[stop:].reshape(rows, self.vocab_size))
                continue
            going_on = laws.log_sum_exp(sums[0]).reshape(rows, self.num_live)
            if self.eos:
                ended, stop = log_mass[stop - rows : stop], stop - rows
                going_on = np.concatenate([going_on, ended[:, None]], axis=1)
            sums.insert(0, going_on)
        return (laws.log_sum_exp(sums[0]).reshape(1, 1), *sums)

    def log_suffix_power_sums(self, alpha: float) -> list[np.ndarray]:
        """Returns log sum_z q(z)^alpha (Eq. 6), z the suffixes of a prefix, [A^t] for t = 0..T."""
        alpha = laws.check_alpha(alpha)
        sums = [np.zeros(self.num_live**self.length)]
        for table in reversed(self.log_p):
            sums.insert(0, laws.log_sum_exp(alpha * table + self._by_token(sums[0])))
        return sums

    def log_prefix_totals(self, alpha: float) -> tuple[np.ndarray, ...]:
        """Returns log g_t(y_1:t) of Eq. 8 by backward recursion, shaped as by `sum_by_prefix`.

        g_t is pi(y_1:t)^alpha times the power sum of the suffixes, and g_0 is Z_alpha.
        """
        sums = self.log_suffix_power_sums(alpha)
        totals, log_prefix = [sums[0].reshape(1, 1)], np.zeros(1)
        for table, later in zip(self.log_p, sums[1:], strict=True):
            by_token = log_prefix[:, None] + table
            totals.append(alpha * by_token + self._by_token(later))
            log_prefix = self.live(by_token)
        return tuple(totals)

    def powered(self, alpha: float) -> TabularModel:
        """Returns pi_alpha (Eq. 4) by its next-token conditionals (Eq. 6).

        A conditional is p^alpha times the power sum after the token, over that before it.
        """
        sums = self.log_suffix_power_sums(alpha)
        return TabularModel(
            tuple(
                alpha * table + self._by_token(later) - now[:, None]
                for table, now, later in zip(self.log_p, sums[:-1], sums[1:], strict=True)
            ),
            self.eos,
        )

    def tempered(self, alpha: float) -> TabularModel:
        """Returns the token-temperature law (Eq. 5): each next-token law to the power alpha."""
        return TabularModel(tuple(laws.power(table, alpha) for table in self.log_p), self.eos)

    def sample(self, rng: np.random.Generator, size: int) -> np.ndarray:
        """Draws completions token by token; returns their places in the order, int [size]."""
        if size < 0:
            raise ValueError(f"the number of samples must be >= 0, got {size}")
        index = np.full(size, -1)
        rows, going = np.zeros(size, dtype=np.int64), np.arange(size)
        start = 0
        for t, table in enumerate(self.log_p):
            tokens = laws.draw_rows(rng, table, rows)
            if t == self.length - 1:
                index[going] = start + rows * self.vocab_size + tokens
                break
            stays = tokens < self.num_live
            index[going[~stays]] = start + rows[~stays]
            start += self.num_live**t if self.eos else 0
            rows, going = (rows * self.num_live + tokens)[stays], going[stays]
        return index

    def _by_token(self, by_live: np.ndarray) -> np.ndarray:
        """Undoes `live`: returns [A^t, V], in which the column of EOS, if there is one, is 0."""
        by_token = by_live.reshape(-1, self.num_live)
        return np.pad(by_token, ((0, 0), (0, int(self.eos))))
