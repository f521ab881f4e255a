"""`TantivyIndex`: BM25 over the chunks of one store, in one folder or in memory.

NOTE: words.
  One function, `normalised`, prepares passages and queries alike; tantivy then splits at white space, drops Lucene's 33 English
  stop words and stems by Snowball's English rules. One field holds every language, because a passage may mix them and a query's
  language need not be guessed.
    NFKC        full-width forms, ligatures and compatibility characters become the plain ones
    casefold    lower case
    words       runs of letters, digits and marks; a word of more than 64 characters is cut
    unspaced    runs of Han, kana, Hangul, Thai and the like become overlapping pairs of characters
    identifiers `E11.9`, `snake_case`, `ISO-9001`: their parts, and the whole as one more word
  BM25 is Lucene's: k1 1.2, b 0.75, lengths in one byte. A removed passage counts in the statistics until its segment is merged.
"""

from __future__ import annotations

import math
import re
import threading
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from deepwell.errors import MissingDependency, StorageError
from deepwell.knowledge.index.protocol import Hits

if TYPE_CHECKING:
    import tantivy

__all__ = ["MAX_TERMS", "TantivyIndex", "normalised"]

MAX_TERMS: Final = 1024
"""The most different words of a query that are searched, as in Lucene; a longer one is searched by its rarest."""

VERSION: Final = 1
"""Counts changes of the words that are indexed. An index of another version has to be rebuilt."""

_KEY: Final = "key"
_TEXT: Final = f"text_{VERSION}"
_TOKENIZER: Final = "deepwell"
_MAX_WORD: Final = 64
_K1: Final = 1.2  # tantivy's
# Below this size a filter by keys is part of the query; above it, fetching more and filtering is tried first.
_FEW_KEYS: Final = 2048
_SMALL_HEAP: Final = 15_000_000  # the least that tantivy takes
_LARGE_HEAP: Final = 128_000_000
_MANY_TEXTS: Final = 1000

# Scripts whose words are not separated by spaces: Thai and Lao, Myanmar, Khmer, kana, Han, Hangul.
_UNSPACED: Final = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uac00-\ud7a3\uf900-\ufaff\U00020000-\U000323af"
)
# Letters, digits and the underscore, with the marks that Python's \w leaves out: combining accents and Indic vowels.
_WORD: Final = rf"(?:(?![{_UNSPACED}])[\w\u0300-\u036f\u0591-\u05c7\u064b-\u0655\u0900-\u0963\u0966-\u0dff])"
_PIECE: Final = re.compile(rf"[{_UNSPACED}]+|{_WORD}+(?:[-.:/]{_WORD}+)*")
# The same for ASCII alone, in half the time.
_ASCII_PIECE: Final = re.compile(r"[a-z0-9_]+(?:[-.:/][a-z0-9_]+)*")
_UNSPACED_START: Final = re.compile(rf"[{_UNSPACED}]")
_PART: Final = re.compile(r"[^-.:/_]+")
_DIGIT: Final = re.compile(r"\d")


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def _words(plain: str) -> list[str]:
    words: list[str] = []
    for run in (_ASCII_PIECE if plain.isascii() else _PIECE).findall(plain):
        if len(run) <= _MAX_WORD and run.isascii() and run.isalnum():
            words.append(run)
        elif _UNSPACED_START.match(run):
            words += [run[place : place + 2] for place in range(max(1, len(run) - 1))]
        else:
            parts = _PART.findall(run)
            for part in parts:
                words += [part[place : place + _MAX_WORD] for place in range(0, len(part), _MAX_WORD)]
            if len(parts) > 1 and len(run) <= _MAX_WORD and ("_" in run or _DIGIT.search(run)):
                words.append(run)
    return words


def normalised(text: str) -> str:
    """Returns the words of a text that are indexed or searched, before stop words and stemming, separated by spaces."""
    return " ".join(_words(_plain(text)))


def _tantivy() -> Any:
    try:
        import tantivy
    except ImportError:
        raise MissingDependency.of(
            "knowledge_extra_missing", feature="lexical search", feature_zh="词法检索", package="tantivy"
        ) from None
    return tantivy


class TantivyIndex:
    """A `LexicalIndex` in one folder, or in memory.

    Threads may share one object. Several processes may open one folder: only one of them changes it at a time, under a lock
    of the caller's, and the others see the change after `reload`.

    Args:
        folder: the folder of the index, made if it is missing; None: in memory.

    Raises:
        MissingDependency: tantivy is not installed.
        StorageError: the folder cannot be used, or holds an index that has to be rebuilt.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._tantivy = _tantivy()
        self._folder = folder
        self._writing = threading.Lock()
        builder = self._tantivy.TextAnalyzerBuilder(self._tantivy.Tokenizer.whitespace())
        builder = builder.filter(self._tantivy.Filter.stopword("english"))
        self._analyzer = builder.filter(self._tantivy.Filter.stemmer("english")).build()
        schema = self._tantivy.SchemaBuilder().add_integer_field(_KEY, indexed=True, fast=True)
        self._schema = schema.add_text_field(_TEXT, tokenizer_name=_TOKENIZER, index_option="freq").build()
        try:
            if folder is None:
                self._index = self._tantivy.Index(self._schema)
            else:
                folder.mkdir(parents=True, exist_ok=True)
                self._index = self._tantivy.Index(self._schema, path=str(folder))
            self._index.register_tokenizer(_TOKENIZER, self._analyzer)
            self._index.config_reader("manual")
            self._searcher: tantivy.Searcher = self._index.searcher()
        except (OSError, ValueError) as error:
            raise StorageError(
                f"the lexical index in {folder} cannot be opened: {error}",
                fix="run `deepwell knowledge rebuild`; passages are in the database",
            ) from None

    def __len__(self) -> int:
        """Returns the number of passages."""
        return self._searcher.num_docs

    def reload(self) -> None:
        """Shows the changes that another process made to the folder."""
        self._index.reload()
        self._searcher = self._index.searcher()

    def add(self, keys: NDArray[np.int64], texts: Sequence[str]) -> None:
        """Adds texts by key, replaces those that are there, and shows them. One call with many texts is faster than many calls.

        Raises:
            ValueError: the numbers of keys and texts differ. Nothing was added.
            StorageError: another process is changing the folder, or it cannot be written. Nothing was added.
        """
        if len(keys) != len(texts):
            raise ValueError(f"{len(keys)} keys for {len(texts)} texts")
        last = dict(zip((int(key) for key in keys), texts, strict=True))
        self._change(last, last)

    def remove(self, keys: NDArray[np.int64]) -> None:
        """Removes keys; those that are not there are ignored.

        Raises:
            StorageError: as in `add`.
        """
        self._change(dict.fromkeys(int(key) for key in keys), {})

    def search(self, query: str, limit: int, *, allowed: NDArray[np.int64] | None = None) -> Hits:
        """Returns the `limit` best. A query is plain text: no character of it is syntax.

        A word that stands in the query twice counts twice.
        """
        searcher = self._searcher
        words, ceiling = self._query(searcher, query)
        if words is None or limit < 1 or (allowed is not None and not len(allowed)):
            return Hits(np.empty(0, np.int64), np.empty(0, np.float32), ceiling)
        keys, scores = self._found(searcher, words, limit, allowed)
        order = np.lexsort((keys, -scores))[:limit]
        return Hits(keys[order], scores[order], ceiling)

    def _found(
        self, searcher: tantivy.Searcher, words: tantivy.Query, limit: int, allowed: NDArray[np.int64] | None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        if allowed is None:
            return self._fetch(searcher, words, limit)
        if len(allowed) > _FEW_KEYS:
            wanted = 2 * limit * max(1, searcher.num_docs // len(allowed)) + 100
            keys, scores = self._fetch(searcher, words, wanted)
            inside = np.isin(keys, allowed)
            if len(keys) < wanted or np.count_nonzero(inside) >= limit:
                return keys[inside], scores[inside]
        return self._fetch(searcher, self._restricted(words, allowed), limit)

    def _query(self, searcher: tantivy.Searcher, text: str) -> tuple[tantivy.Query | None, float]:
        """Returns the query for the words of a text, None if no passage has any, and the score that none can exceed."""
        counts = Counter(self._analyzer.analyze(normalised(text)))
        frequency = {word: searcher.doc_freq(_TEXT, word) for word in counts}
        passages = max(searcher.num_docs, *frequency.values(), 1)
        ceiling = sum(
            count * (_K1 + 1) * math.log1p((passages - frequency[word] + 0.5) / (frequency[word] + 0.5))
            for word, count in counts.items()
        )
        found = [word for word in counts if frequency[word]]
        if len(found) > MAX_TERMS:
            found = sorted(found, key=lambda word: (frequency[word], word))[:MAX_TERMS]
        query, should = self._tantivy.Query, self._tantivy.Occur.Should
        clauses: list[tuple[tantivy.Occur, tantivy.Query]] = []
        for word in found:
            term = query.term_query(self._schema, _TEXT, word, "freq")
            # A boost of one would cost tantivy its fast path.
            clauses.append(
                (should, term if counts[word] == 1 else query.boost_query(term, float(counts[word])))
            )
        return (query.boolean_query(clauses) if clauses else None), ceiling

    def _restricted(self, words: tantivy.Query, allowed: NDArray[np.int64]) -> tantivy.Query:
        query = self._tantivy.Query
        keys = query.term_set_query(self._schema, _KEY, allowed.tolist())
        must = self._tantivy.Occur.Must
        return query.boolean_query([(must, words), (must, query.const_score_query(keys, 0.0))])

    @staticmethod
    def _fetch(
        searcher: tantivy.Searcher, query: tantivy.Query, limit: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Returns at least the `limit` best, and all that tie with the last of them."""
        wanted = limit + 16
        while True:
            wanted = min(wanted, searcher.num_docs)
            hits = searcher.search(query, max(wanted, 1), count=False).hits
            if len(hits) < wanted or wanted == searcher.num_docs or hits[-1][0] < hits[limit - 1][0]:
                break
            wanted *= 4
        keys = searcher.fast_field_values(_KEY, [address for _, address in hits])
        return np.array(keys, np.int64), np.array([score for score, _ in hits], np.float32)

    def _change(self, removed: dict[int, Any], added: dict[int, str]) -> None:
        with self._writing:
            many = len(added) > _MANY_TEXTS
            try:
                self.reload()
                present = [key for key in removed if self._searcher.doc_freq(_KEY, key)]
                if not present and not added:
                    return
                writer = self._index.writer(_LARGE_HEAP if many else _SMALL_HEAP, 1)
            except (OSError, ValueError) as error:
                raise self._refused(error) from None
            try:
                for key in present:
                    writer.delete_documents_by_term(_KEY, key)
                for key, text in added.items():
                    document = self._tantivy.Document()
                    document.add_integer(_KEY, key)
                    document.add_text(_TEXT, normalised(text))
                    writer.add_document(document)
                writer.commit()
                self.reload()
            except (OSError, ValueError) as error:
                raise self._refused(error) from None
            finally:
                # Segments are merged after the change is seen; without this the number of segments would grow for ever.
                writer.wait_merging_threads()

    def _refused(self, error: Exception) -> StorageError:
        if "lock" in str(error).lower():
            return StorageError(
                f"another process is changing the lexical index in {self._folder}", fix="try again later"
            )
        return StorageError(
            f"the lexical index in {self._folder} cannot be changed: {error}",
            fix="free space on the disk, or run `deepwell knowledge rebuild`",
        )
