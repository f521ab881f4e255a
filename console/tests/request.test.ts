import assert from "node:assert/strict";
import { test } from "node:test";
import { chatBody, problems, responsesBody, withAttachments } from "../src/pages/chat/model/request";
import { type Message, NO_SETTINGS } from "../src/pages/chat/model/types";

const said = (role: Message["role"], content: string, more: Partial<Message> = {}): Message => ({
  id: content,
  conversation: "c",
  parent: null,
  role,
  content,
  created: 0,
  ...more,
});
const CALL = { id: "call_1", name: "f", arguments: "{}" };
const TURNS = [
  said("user", "hi"),
  said("assistant", "", { calls: [CALL] }),
  said("tool", "42", { call_id: "call_1" }),
  said("assistant", "", { finish: "error", error: "broke" }),
];
const TOOL = { type: "function", function: { name: "f", parameters: {} } };

test("a chat request has the turns with calls and results, and leaves out what is not set", () => {
  const settings = { ...NO_SETTINGS, model: "m", system: "Be brief.", tools: JSON.stringify([TOOL]), sampling: { temperature: 0, stop: [] } };
  assert.deepEqual(chatBody(settings, TURNS), {
    model: "m",
    messages: [
      { role: "system", content: "Be brief." },
      { role: "user", content: "hi" },
      {
        role: "assistant",
        content: null,
        tool_calls: [{ id: "call_1", type: "function", function: { name: "f", arguments: "{}" } }],
      },
      { role: "tool", tool_call_id: "call_1", content: "42" },
    ],
    stream: true,
    stream_options: { include_usage: true },
    temperature: 0,
    tools: [TOOL],
  });
});

test("the last messages go along, and never a result without its call", () => {
  const turns = [...TURNS.slice(0, 3), said("assistant", "42 it is"), said("user", "sure?")];
  const contents = (most: number) =>
    (chatBody({ ...NO_SETTINGS, turns: most }, turns).messages as { role: string }[]).map((one) => one.role);
  assert.deepEqual(contents(1), ["user"]);
  for (const most of [2, 3, 4]) assert.deepEqual(contents(most), ["user", "assistant", "tool", "assistant", "user"]);
});

test("a request with a knowledge base searches it and keeps nothing on the server", () => {
  const body = responsesBody({ ...NO_SETTINGS, model: "m", knowledge: "vs_1", tools: JSON.stringify([TOOL]) }, TURNS);
  assert.equal(body.store, false);
  assert.deepEqual(body.tools, [
    { type: "file_search", vector_store_ids: ["vs_1"] },
    { type: "function", name: "f", parameters: {} },
  ]);
  assert.deepEqual((body.input as { type: string }[]).map((one) => one.type), ["message", "function_call", "function_call_output"]);
});

test("a request with a knowledge base has its text files beside the question, not in it", () => {
  const asked = said("user", "who?", { attachments: [{ name: "a.md", text: "Mära\n" }] });
  const body = responsesBody({ ...NO_SETTINGS, model: "m", knowledge: "vs_1" }, [asked]);
  const file_data = `data:text/plain;base64,${Buffer.from("Mära\n").toString("base64")}`;
  const content = [
    { type: "input_text", text: "who?" },
    { type: "input_file", filename: "a.md", file_data },
  ];
  assert.deepEqual(body.input, [{ type: "message", role: "user", content }]);
});

test("an attached file cannot end its own fence", () => {
  const text = withAttachments("look", [{ name: "a.md", text: "```\ncode\n```\n````\n" }]);
  assert.equal(text, "look\n\na.md\n`````\n```\ncode\n```\n````\n`````");
});

test("settings that are no JSON are named", () => {
  const wrong = problems({ ...NO_SETTINGS, tools: "[", format: "json_schema", schema: "{" });
  assert.ok(wrong.tools && wrong.schema);
  assert.deepEqual(problems({ ...NO_SETTINGS, tools: "[]", format: "json_schema", schema: "{}" }), {});
});
