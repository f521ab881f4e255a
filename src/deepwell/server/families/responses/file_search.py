"""The tool `file_search`: the search before an answer, and the prompt that the found passages become part of.

Small models call a search tool too rarely and with poor queries. The search is therefore made for every request that offers
the tool, with the last user turn as its query, rewritten where it leans on the turns before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from deepwell.dialogue.dialogue import Dialogue, count_prompt
from deepwell.errors import ContextLengthExceeded
from deepwell.knowledge.documents import Passage
from deepwell.server.access.auth import InsufficientScope
from deepwell.server.access.principal import Principal
from deepwell.server.answering import Answering
from deepwell.server.attachments.passages import Material
from deepwell.server.attachments.wording import own_words
from deepwell.server.context import ServerContext
from deepwell.server.families.responses.bodies import FileSearchResult
from deepwell.server.families.responses.image_schema import ImageChoice
from deepwell.server.families.responses.schema import RESULTS, InputTokensRequest, ResponseRequest
from deepwell.server.families.responses.tool_schema import (
    AllowedTools,
    FileSearchChoice,
    FileSearchSpec,
    NamedTool,
)
from deepwell.server.families.vector_stores.search import search_options, search_stores
from deepwell.server.guarding.checked import Checked
from deepwell.server.guarding.grounds import Grounds
from deepwell.server.writing import ServedWriter

if TYPE_CHECKING:
    from deepwell.knowledge.protocols import Embedder
    from deepwell.knowledge.search import Ranker

__all__ = ["Searched", "results_of", "searched", "searches"]

_RESULTS = 20  # if a request names no number, as at OpenAI
_CANDIDATES = 20  # that are judged, even if fewer are wanted
_PASSAGES = 3  # that the model reads: more confuse a small one
_ANSWER_TOKENS = 200  # kept free if a request sets no limit
_SPARE_TOKENS = 16  # texts that are joined may have other tokens than each by itself


@dataclass(frozen=True, slots=True)
class Searched:
    """A search that was made for a request.

    Attributes:
        query: what was searched.
        found: the passages, best first, as many as the request wants.
        dialogue: the dialogue with the passages that the answer is to rest on.
        passages: those passages; number 1 is the first. None: the answer does not rest on passages.
        embedder: the embedder of the stores; None if nothing was found.
        declines: the answer if no passage is relevant; empty: the model answers.
        quotes: whether the answer is a quotation of the best passage, because the model was measured to answer fewer questions.
    """

    query: str
    found: Sequence[Passage]
    dialogue: Dialogue
    passages: tuple[Passage, ...] = ()
    embedder: Embedder | None = None
    declines: str = ""
    quotes: bool = False

    def asks_model(self, *, prose: bool) -> bool:
        """Returns whether the model is asked. It is not where the answer declines, or is a quotation.

        Args:
            prose: whether the text of the answer is made of sentences.
        """
        return not self.declines and not (self.quotes and prose and self.passages)


def searches(body: ResponseRequest | InputTokensRequest) -> bool:
    """Returns whether a request asks for a search."""
    return _wanted(body) is not None


async def searched(
    context: ServerContext,
    answering: Answering,
    adapter: str,
    principal: Principal,
    body: ResponseRequest | InputTokensRequest,
    dialogue: Dialogue,
    checked: Checked | None = None,
) -> Searched | None:
    """Searches for the last user turn. Returns None if the request asks for no search, or there is nothing to search for.

    Raises:
        InsufficientScope: the key may not read files.
        NotFound: the tenant has no such vector store.
        InvalidRequest: a store has expired, or the filter cannot be read.
        ContextLengthExceeded: the best passage does not fit beside the conversation.
    """
    from deepwell.knowledge.answer.decline import prefers_quotation, quotable, relevant
    from deepwell.knowledge.answer.grounded import by_turns
    from deepwell.knowledge.answer.rewrite import rewrite

    spec = _wanted(body)
    turns = _turns(dialogue.messages)
    asked = next((turn for turn in reversed(turns) if turn["role"] == "user"), None)
    if spec is None or asked is None or not own_words(asked["content"]):
        return None
    if not principal.may("files"):
        raise InsufficientScope(
            "this API key does not have the scope 'files', which file_search needs",
            fix="use one that was made with `deepwell keys create --scope inference --scope files`",
        )
    writer = ServedWriter(answering, "file-search", principal.caller, adapter)
    embedder = await _embedder(context, principal, spec)
    material = await Material.of(turns, embedder)
    asked["content"] = material.question
    query = (await rewrite(turns, writer)).query
    limit = spec.max_num_results or _RESULTS
    options = _options(context, principal, spec, max(limit, _CANDIDATES))
    candidates = await search_stores(context, principal.tenant, spec.vector_store_ids, [query], options)
    if answering.guard is not None and checked is not None:
        candidates = await answering.guard.passages(candidates, checked)
    found = candidates[:limit]
    # A quotation is of one passage alone, and an answer to a question with attachments rests on both.
    quotes = prefers_quotation(writer) and not dialogue.tools and not material.new
    choose = quotable if quotes else relevant
    judged = [*material.earlier, *candidates]
    chosen = await choose(query, judged, writer, embedder) if judged else []
    wanted = {one.key for one in (*material.earlier, *found)}
    answers = by_turns([one for one in chosen if one.key in wanted][:_PASSAGES], material.new)
    if not answers:
        return Searched(query, found, dialogue, declines="" if dialogue.tools else _declines(query))
    room = await _room(answering, principal, body, _grounded(dialogue, query, ()))
    passages = _fitting(answers, room, writer)
    if checked is not None:
        checked.grounds = Grounds(query, passages, embedder)
    return Searched(query, found, _grounded(dialogue, query, passages), passages, embedder, quotes=quotes)


def results_of(search: Searched, body: ResponseRequest) -> list[FileSearchResult] | None:
    """Returns the found passages as results, or None if the request does not include them."""
    if RESULTS not in (body.include or ()):
        return None
    return [
        FileSearchResult(one.file_id, one.filename, one.score, one.text, dict(one.attributes))
        for one in search.found
    ]


def _wanted(body: ResponseRequest | InputTokensRequest) -> FileSearchSpec | None:
    """Returns the search that the request offers, if its `tool_choice` allows it."""
    spec = next((tool for tool in body.tools or () if isinstance(tool, FileSearchSpec)), None)
    match body.tool_choice:
        case "none" | NamedTool() | ImageChoice():
            return None
        case AllowedTools(tools=some) if not any(isinstance(one, FileSearchChoice) for one in some):
            return None
        case _:
            return spec


def _options(context: ServerContext, principal: Principal, spec: FileSearchSpec, limit: int) -> Any:
    ranking = spec.ranking_options
    weights = ranking.hybrid_search if ranking else None
    arms: Ranker = "hybrid"
    if weights is not None and not weights.text_weight:
        arms = "dense"
    elif weights is not None and not weights.embedding_weight:
        arms = "lexical"
    return search_options(
        context,
        principal.tenant,
        limit=limit,
        filters=spec.filters,
        ranker=ranking.ranker if ranking else None,
        min_score=ranking.score_threshold if ranking else None,
        searches=len(set(spec.vector_store_ids)),
        arms=arms,
        param="tools.filters",
    )


def _turns(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Returns the messages that have text."""
    return [
        {"role": one["role"], "content": one["content"]}
        for one in messages
        if one["role"] in ("system", "user", "assistant") and isinstance(one.get("content"), str)
    ]


async def _embedder(context: ServerContext, principal: Principal, spec: FileSearchSpec) -> Embedder:
    store = await context.state.knowledge.stores.get(principal.tenant, spec.vector_store_ids[0])
    return await context.knowledge.embedders.of_store(store)


def _declines(query: str) -> str:
    from deepwell.knowledge.answer.text import language_of
    from deepwell.knowledge.answer.wording import WORDING

    return WORDING[language_of(query)].declines


def _grounded(dialogue: Dialogue, query: str, passages: Sequence[Passage]) -> Dialogue:
    """Returns the dialogue with the passages in front of the last user turn, and the instruction to answer from them.

    What the user said stays as it is, in front of what it was rewritten to.
    """
    from deepwell.knowledge.answer.grounded import asked_words
    from deepwell.knowledge.answer.ledger import quoted
    from deepwell.knowledge.answer.text import language_of
    from deepwell.knowledge.answer.wording import WORDING

    wording = WORDING[language_of(query)]
    messages = [dict(one) for one in dialogue.messages]
    blocks = "\n\n".join(quoted(passage, number) for number, passage in enumerate(passages, 1))
    last = max(index for index, one in enumerate(messages) if one["role"] == "user")
    asked = asked_words(own_words(str(messages[last]["content"])), query)
    messages[last]["content"] = wording.prompt.format(passages=blocks, question=asked)
    if messages[0]["role"] == "system":
        messages[0]["content"] += f"\n\n{wording.instruction}"
    else:
        messages.insert(0, {"role": "system", "content": wording.instruction})
    return replace(dialogue, messages=messages)


async def _room(
    answering: Answering,
    principal: Principal,
    body: ResponseRequest | InputTokensRequest,
    dialogue: Dialogue,
) -> int:
    """Returns the number of tokens that passages may have."""
    model = answering.model
    answer = body.max_output_tokens if isinstance(body, ResponseRequest) else None
    used = await count_prompt(model, dialogue, principal.caller)
    return model.capabilities.max_model_len - used - (answer or _ANSWER_TOKENS) - _SPARE_TOKENS


def _fitting(relevant: Sequence[Passage], room: int, writer: ServedWriter) -> tuple[Passage, ...]:
    """Returns the best passages that fit as a whole.

    Raises:
        ContextLengthExceeded: not even the best one does.
    """
    from deepwell.knowledge.answer.ledger import quoted

    taken: list[Passage] = []
    for passage in relevant:
        tokens = writer.count(quoted(passage, len(taken) + 1) + "\n\n")
        if tokens <= room:
            room -= tokens
            taken.append(passage)
        elif not taken:
            raise ContextLengthExceeded(
                f"the best passage has {tokens} tokens, and the context has room for {max(room, 0)} beside the rest",
                fix="use a larger --context or smaller chunks, or ask with a shorter conversation",
                param="input",
            )
    return tuple(taken)
