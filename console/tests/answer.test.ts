import assert from "node:assert/strict";
import { test } from "node:test";
import { AnswerReader, passageOf } from "../src/pages/chat/model/answer";

function read(...events: unknown[]) {
  const reader = new AnswerReader();
  for (const one of events) reader.take({ event: "message", data: JSON.stringify(one) });
  return reader.answer();
}

const delta = (delta: unknown, finish_reason: string | null = null) => ({
  id: "chatcmpl-1",
  choices: [{ index: 0, delta, finish_reason }],
});

test("chat chunks become text, thoughts, calls and counts", () => {
  const usage = { prompt_tokens: 9, completion_tokens: 4, prompt_tokens_details: { cached_tokens: 8 } };
  const call = (index: number, function_: unknown, id?: string) => ({ tool_calls: [{ index, function: function_, id }] });
  const answer = read(
    delta({ role: "assistant", content: "" }),
    delta({ reasoning_content: "hm" }),
    delta({ content: "He" }),
    delta({ content: "llo" }),
    delta(call(0, { name: "f", arguments: "" }, "call_1")),
    delta(call(0, { arguments: '{"a"' })),
    delta(call(0, { arguments: ": 1}" })),
    delta(call(1, { name: "g", arguments: "{}" }, "call_2")),
    delta({}, "tool_calls"),
    { id: "chatcmpl-1", choices: [], usage },
  );
  assert.deepEqual(answer, {
    content: "Hello",
    reasoning: "hm",
    calls: [
      { id: "call_1", name: "f", arguments: '{"a": 1}' },
      { id: "call_2", name: "g", arguments: "{}" },
    ],
    answer_id: "chatcmpl-1",
    finish: "tool_calls",
    usage: { prompt: 9, completion: 4, cached: 8 },
  });
});

test("events of a response become text with the passages that its marks name", () => {
  const text = "😀 Every 60 days [1]. 保修两年[2]。";
  const at = (mark: string) => Array.from(text).join("\u0000").split("\u0000").join("").indexOf(mark) - 1; // in characters
  const results = [
    { file_id: "f1", filename: "cleaning.md", score: 0.9, text: "Descale it every 60 days." },
    { file_id: "f2", filename: "保修.md", score: 0.8, text: "保修期为两年。" },
  ];
  const cited = (index: number, file: number) => ({
    type: "response.output_text.annotation.added",
    annotation: { type: "file_citation", file_id: `f${file}`, filename: results[file - 1]?.filename, index },
  });
  const answer = read(
    { type: "response.created", response: { id: "resp_1" } },
    { type: "response.output_item.done", item: { type: "file_search_call", results } },
    { type: "response.output_text.delta", delta: text },
    cited(at("[1]"), 1),
    cited(at("[2]"), 2),
    { type: "response.completed", response: { id: "resp_1", usage: { input_tokens: 5, output_tokens: 2 } } },
  );
  assert.equal(answer.finish, "stop");
  assert.deepEqual(answer.citations?.map((one) => [one.mark, one.file_id]), [["1", "f1"], ["2", "f2"]]);
  const passages = answer.passages ?? [];
  for (const citation of answer.citations ?? []) {
    assert.equal(passageOf(citation, passages, "")?.file_id, citation.file_id);
  }
});

test("a mark whose number is another file's leads to the likest passage of its own file", () => {
  const passages = [
    { file_id: "a", filename: "a", score: 1, text: "of something else" },
    { file_id: "b", filename: "b", score: 1, text: "the moon is far" },
    { file_id: "b", filename: "b", score: 1, text: "the sky is blue" },
  ];
  const found = passageOf({ mark: "1", file_id: "b", filename: "b" }, passages, "Why is the sky blue?");
  assert.equal(found?.text, "the sky is blue");
});

test("an error in the stream ends the answer, and what came before stays", () => {
  const reader = new AnswerReader();
  reader.take({ event: "message", data: JSON.stringify(delta({ content: "half" })) });
  const error = { error: { message: "the model broke: ask again", code: "engine_failed" } };
  assert.throws(() => reader.take({ event: "message", data: JSON.stringify(error) }), /the model broke/);
  assert.equal(reader.answer().content, "half");
});

test("the ledger of a fitted conversation comes with the counts", () => {
  const row = { first: 0, last: 8, role: "several", dropped: 90 };
  const context = { policy: "auto", mechanism: "retrieve", original_tokens: 100, kept_tokens: 10, dropped_tokens: 90, added_tokens: 3 };
  const usage = (more: unknown) => ({
    prompt_tokens: 13,
    completion_tokens: 1,
    prompt_tokens_details: { cached_tokens: 0, context: more },
  });
  const fitted = read({ id: "chatcmpl-1", choices: [], usage: usage({ ...context, messages: [row] }) });
  assert.deepEqual(fitted.usage?.context, {
    mechanism: "retrieve",
    original: 100,
    fates: { kept: 10, dropped: 90 },
    added: 3,
    rows: [{ first: 0, last: 8, role: "several", fates: { dropped: 90 } }],
  });
  const learning = read({ id: "chatcmpl-1", choices: [], usage: usage({ ...context, mechanism: "drop", adapter: "training" }) });
  assert.equal(learning.usage?.context?.adapter, "training");
  const whole = read({ id: "chatcmpl-1", choices: [], usage: usage({ ...context, mechanism: "none" }) });
  assert.equal(whole.usage?.context, undefined);
});
