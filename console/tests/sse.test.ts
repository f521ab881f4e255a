import assert from "node:assert/strict";
import { test } from "node:test";
import { EventParser, type ServerEvent } from "../src/api/sse";

const STREAM = 'event: delta\ndata: {"a": 1}\n\n: a comment\ndata: one\r\ndata: two\r\n\r\ndata:three\n\nevent: without data\n\n';
const EVENTS: ServerEvent[] = [
  { event: "delta", data: '{"a": 1}' },
  { event: "message", data: "one\ntwo" },
  { event: "message", data: "three" },
];

test("events are the same however the stream is cut", () => {
  for (let size = 1; size <= STREAM.length; size += 1) {
    const parser = new EventParser();
    const found: ServerEvent[] = [];
    for (let at = 0; at < STREAM.length; at += size) found.push(...parser.push(STREAM.slice(at, at + size)));
    assert.deepEqual(found, EVENTS, `pieces of ${size}`);
  }
});

test("an event that is not finished is not told", () => {
  const parser = new EventParser();
  assert.deepEqual(parser.push("data: half\n"), []);
  assert.deepEqual(parser.push("\n"), [{ event: "message", data: "half" }]);
});
