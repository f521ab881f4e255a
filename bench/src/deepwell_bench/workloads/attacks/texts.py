"""Attacks by texts that cost much to tokenise, to render or to prefill."""

from __future__ import annotations

from deepwell_bench.workloads.attacks.ground import Attack, Ground

__all__ = ["ATTACKS"]

_KIND = "texts"
_CHAT = "/v1/chat/completions"
_LONG = 7_900_000  # characters: just below the largest body


async def _long(ground: Ground, text: str) -> None:
    """Sends one text that is longer than any context, which must be refused."""
    await ground.refused("POST", _CHAT, ground.chat(text), 400, 408, 413, 429)


async def long_message(ground: Ground) -> None:
    await _long(ground, "The quick brown fox. " * (_LONG // 21))


async def long_messages(ground: Ground) -> None:
    text = "Pack my box with five dozen jugs. " * (_LONG // 34)
    await ground.together(8, lambda _: ground.civil("POST", _CHAT, ground.chat(text)))


async def one_letter(ground: Ground) -> None:
    await _long(ground, "a" * _LONG)


async def white_space(ground: Ground) -> None:
    await _long(ground, " " * _LONG)
    await _long(ground, "\n\t" * (_LONG // 6))


async def combining(ground: Ground) -> None:
    await _long(ground, "e" + "\u0301" * 600_000)
    await _long(ground, "\u200d" * 600_000)


async def han(ground: Ground) -> None:
    await _long(ground, "深井推理平台" * (_LONG // 6 // 6))


async def control_tokens(ground: Ground) -> None:
    await _long(ground, "<|im_start|>" * (_LONG // 13))
    await _long(ground, "<|im_sta" * (_LONG // 9))


async def middling_messages(ground: Ground) -> None:
    """Texts between what is tokenised in line and what is refused by its length alone."""
    text = "How much wood would a woodchuck chuck? " * 2500
    await ground.together(8, lambda _: ground.civil("POST", _CHAT, ground.chat(text)))


async def many_turns(ground: Ground) -> None:
    messages = [
        {"role": ("user", "assistant")[number % 2], "content": "word " * 20} for number in range(20_001)
    ]
    await ground.civil("POST", _CHAT, ground.chat(messages=messages))


async def counted(ground: Ground) -> None:
    body = {"model": ground.model, "messages": [{"role": "user", "content": "count me " * (_LONG // 9)}]}
    await ground.civil("POST", "/v1/messages/count_tokens", body)


async def long_instructions(ground: Ground) -> None:
    body = {
        "model": ground.model,
        "input": "x",
        "instructions": "obey " * (_LONG // 5),
        "max_output_tokens": 4,
    }
    await ground.refused("POST", "/v1/responses", body)


async def long_prompt(ground: Ground) -> None:
    body = {"model": ground.model, "prompt": "again and " * (_LONG // 10), "max_tokens": 4}
    await ground.refused("POST", "/v1/completions", body)


async def token_ids(ground: Ground) -> None:
    ids = [17] * 1_500_000
    await ground.refused("POST", "/v1/completions", {"model": ground.model, "prompt": ids, "max_tokens": 1})
    wrong = {"model": ground.model, "prompt": [2**31 - 1, 10**9], "max_tokens": 1}
    await ground.refused("POST", "/v1/completions", wrong)


async def embedded(ground: Ground) -> None:
    body = {"model": ground.model, "input": ["embed me " * 300] * 2048}
    await ground.civil("POST", "/v1/embeddings", body)
    await ground.refused("POST", "/v1/embeddings", {"model": ground.model, "input": "long " * (_LONG // 5)})


async def full_contexts(ground: Ground) -> None:
    text = "one two three four five six seven eight nine ten " * 600

    async def one(number: int) -> None:
        await ground.civil("POST", _CHAT, ground.chat(f"{number} {text}", max_tokens=4))

    await ground.together(4, one)


async def long_batch_lines(ground: Ground) -> None:
    body = {"model": ground.model, "input": "line " * (_LONG // 5)}
    await ground.refused("POST", "/v1/responses/input_tokens", body, *range(400, 500), 200)


_SPECIFIED = (
    ("long_message", "sends a message of 7.9 MB", "refused; the event loop goes on", long_message),
    ("long_messages", "sends eight of them at once", "refused; the event loop goes on", long_messages),
    ("one_letter", "sends 7.9 MB of one letter", "refused", one_letter),
    ("white_space", "sends 7.9 MB of spaces, and of tabs and line breaks", "refused", white_space),
    ("combining", "stacks 600,000 accents on a letter", "refused", combining),
    ("han", "sends 1.3 million Han characters", "refused", han),
    ("control_tokens", "sends 600,000 control tokens, whole and cut", "refused", control_tokens),
    ("middling_messages", "sends eight texts of 100,000 characters at once", "answered or refused", middling_messages),
    ("many_turns", "sends a chat of 20,001 turns", "answered or refused", many_turns),
    ("counted", "has 7.9 MB counted", "answered or refused", counted),
    ("long_instructions", "sends instructions of 7.9 MB", "refused", long_instructions),
    ("long_prompt", "sends a prompt of 7.9 MB", "refused", long_prompt),
    ("token_ids", "sends 1.5 million token ids, and ids beyond the vocabulary", "refused", token_ids),
    ("embedded", "embeds 2,048 texts at once, and one of 7.9 MB", "refused", embedded),
    ("full_contexts", "fills four contexts at once", "answered in fair turns", full_contexts),
    ("counted_input", "has an input of 7.9 MB counted", "answered or refused", long_batch_lines),
)  # fmt: skip
_HEAVY = ("full_contexts", "embedded", "middling_messages")
ATTACKS = tuple(
    Attack(name, _KIND, what, holds, run, "heavy" if name in _HEAVY else "light")
    for name, what, holds, run in _SPECIFIED
)
