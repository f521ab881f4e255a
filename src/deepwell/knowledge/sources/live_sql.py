"""`LiveSQL`: a query that is run at query time."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any

from deepwell.errors import InvalidRequest, SourceError
from deepwell.knowledge.documents import Passage
from deepwell.knowledge.sources.database import QueryDatabase, check_query
from deepwell.knowledge.sources.live import Result, passages_of
from deepwell.knowledge.sources.options import LiveSQLOptions
from deepwell.knowledge.sources.sql import attribute, plain

__all__ = ["LiveSQL", "terms_of"]

_TERMS = 8
_MOST_RESULTS = 100

_WORD = re.compile(r"[\u3400-\u9fff\U00020000-\U0003ffff]+|[^\W_\u3400-\u9fff\U00020000-\U0003ffff]+")
_MOST_TERMS = 32
_WHOLE = 4  # Chinese runs up to this length are one term


class LiveSQL:
    """A query with the question as bound parameter: `:question`, its `:terms`, `:term_1` to `:term_8`, and `:limit`.

    `:terms` are the words of the question in double quotes with OR between them, as both SQLite's FTS5 and PostgreSQL's
    `websearch_to_tsquery` read them. `:term_1` is the longest word, and NULL where there is none.

    Args:
        name: its name.
        database: the database.
        options: the query and its columns.

    Raises:
        InvalidRequest: the query does not only read, does not use the question, or uses a parameter that there is not.
    """

    def __init__(self, name: str, database: QueryDatabase, options: LiveSQLOptions) -> None:
        from sqlalchemy import text

        self.name = name
        self._database = database
        self._query = check_query(options.query)
        self._options = options
        self._used = set(text(self._query).compile().params)
        unknown = self._used - set(self._parameters("", 1))
        if unknown:
            raise InvalidRequest(
                f"the query of live source {name} uses :{min(unknown)}, which there is not",
                fix="use :question, :terms, :term_1 to :term_8 or :limit; write \\: for a colon",
            )
        if not self._used - {"limit"}:
            raise InvalidRequest(
                f"the query of live source {name} does not use the question",
                fix="add WHERE ... :question, or :terms",
            )

    async def ask(self, question: str, limit: int) -> list[Passage]:
        """Runs the query; see `LiveSource`."""
        limit = min(limit, _MOST_RESULTS)
        try:
            # The database ends the query by itself; the second limit is for one that does not.
            async with asyncio.timeout(self._options.timeout_s + 1):
                results = await asyncio.to_thread(self._ask, question, limit)
        except TimeoutError:
            raise SourceError(
                f"live source {self.name} did not answer within {self._options.timeout_s:g} s",
                fix="raise timeout_s",
            ) from None
        return passages_of(self.name, results, limit, self._options.max_chars)

    async def close(self) -> None:
        """Closes its connections."""
        await asyncio.to_thread(self._database.close)

    def _parameters(self, question: str, limit: int) -> dict[str, Any]:
        terms = terms_of(question)
        longest = sorted(terms, key=lambda term: -len(term))[:_TERMS]
        numbered = {f"term_{n + 1}": longest[n] if n < len(longest) else None for n in range(_TERMS)}
        return {
            "question": question,
            "terms": " OR ".join(f'"{term}"' for term in terms) or '""',
            "limit": limit,
            **numbered,
        }

    def _ask(self, question: str, limit: int) -> list[Result]:
        options = self._options
        parameters = {
            name: value for name, value in self._parameters(question, limit).items() if name in self._used
        }
        results: list[Result] = []
        size = 0
        with self._database.query(self._query, options.timeout_s, parameters) as rows:
            if options.text not in rows.columns:
                raise SourceError(
                    f"the query of live source {self.name} has no column {options.text}",
                    fix=f"it has {', '.join(rows.columns)}: name one of them, text=COLUMN",
                )
            for row in rows:
                values = dict(zip(rows.columns, row, strict=True))
                size += sum(len(plain(value)) for value in values.values())
                if size > options.max_bytes:
                    raise SourceError(
                        f"live source {self.name} answers more than {options.max_bytes / 1e6:.1f} MB",
                        fix="add a LIMIT",
                    )
                results.append(self._result(values))
                if len(results) >= limit:
                    break
        return results

    def _result(self, values: Mapping[str, Any]) -> Result:
        options = self._options
        score = attribute(values.get(options.score))
        named = (options.text, options.title, options.link, options.score)
        others = {name: attribute(value) for name, value in values.items() if name not in named}
        return Result(
            text=plain(values[options.text]),
            title=plain(values.get(options.title)),
            link=plain(values.get(options.link)),
            score=float(score) if isinstance(score, int | float) else None,
            attributes={name: value for name, value in others.items() if value is not None},
        )


def terms_of(question: str) -> list[str]:
    """Returns the distinct words of a question in their order, in lower case, at most 32. None holds a quote or an operator."""
    terms: dict[str, None] = {}
    for match in _WORD.finditer(question.lower()):
        word = match[0]
        if "\u3400" <= word[0] <= "\u9fff" or word[0] >= "\U00020000":
            pairs = [word] if len(word) <= _WHOLE else [word[at : at + 2] for at in range(len(word) - 1)]
            terms |= dict.fromkeys(pairs)
        elif len(word) > 1:
            terms[word] = None
    return list(terms)[:_MOST_TERMS]
