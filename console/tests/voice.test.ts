import assert from "node:assert/strict";
import { test } from "node:test";
import { clock, joined, kindOf, nameOf, problemOf, silence } from "../src/pages/chat/model/recording";
import { Kept, piecesOf, SampleReader, spokenText } from "../src/pages/chat/model/speech";
import { commandsIn } from "../src/ui/remedy/commands";

test("what was said joins what is written as one would type it", () => {
  assert.equal(joined("", " Hello. "), "Hello.");
  assert.equal(joined("Hi", "there"), "Hi there");
  assert.equal(joined("Hi\n", "there"), "Hi\nthere");
  assert.equal(joined("你好。", "今天"), "你好。今天");
  assert.equal(joined("你好", "OK"), "你好 OK");
  assert.equal(joined("Hi", "  "), "Hi");
});

test("a recording has a kind that the browser makes, and a name with its ending", () => {
  assert.equal(nameOf(kindOf((kind) => kind.startsWith("audio/mp4"))), "message.mp4");
  assert.equal(nameOf(kindOf(() => true)), "message.webm");
  assert.equal(kindOf(() => false), "");
  assert.equal(nameOf("audio/ogg;codecs=opus"), "message.ogg");
});

test("errors of the browser are told apart", () => {
  assert.equal(problemOf("NotAllowedError"), "voice.refused");
  assert.equal(problemOf("NotFoundError"), "voice.none");
  assert.equal(problemOf("NotReadableError"), "voice.taken");
  assert.equal(problemOf("TypeError"), null);
  assert.deepEqual([clock(7.9), clock(75), clock(600)], ["0:07", "1:15", "10:00"]);
});

test("silence is a WAV file of its length", async () => {
  const bytes = new DataView(await silence(0.5).arrayBuffer());
  assert.equal(bytes.byteLength, 44 + 16_000);
  assert.equal(bytes.getUint32(4, true), bytes.byteLength - 8);
  assert.equal(bytes.getUint32(24, true), 16_000);
});

test("what is read aloud has no signs of Markdown, no code and no marks of citations", () => {
  const markdown =
    "## Title\n\nA **bold** and *soft* [link](https://x.example/a_b) with `code`, snake_case_name and 2 * 3 * 4 [1].\n\n" +
    "- one\n- [x] two\n1. three\n\n> quoted\n\n---\n\n| a | b |\n|---|:-:|\n| 1 | 2 |\n\n```py\nprint(1)\n```\nend ~~gone~~ <b>x</b>";
  assert.equal(
    spokenText(markdown),
    "Title\n\nA bold and soft link with code, snake_case_name and 2 * 3 * 4.\n\n" +
      "one\ntwo\n1. three\n\nquoted\n\na, b\n\n1, 2\n\nend gone x",
  );
  assert.equal(spokenText("```py\nx = 1"), "");
  assert.equal(spokenText("保修期为**两年**[2]。"), "保修期为两年。");
});

test("pieces are short enough, end where one may pause, and lose no word", () => {
  const sentence = "It is a sentence of some words. ";
  const pieces = piecesOf(sentence.repeat(20), 100);
  assert.ok(pieces.every((one) => one.length <= 100 && one.endsWith("words.")));
  assert.equal(pieces.join(" "), sentence.repeat(20).trim());
  assert.ok(piecesOf("今天天气很好。".repeat(40), 50).every((one) => one.length <= 50 && one.endsWith("。")));
  assert.equal(piecesOf("😀".repeat(30), 25).join(""), "😀".repeat(30));
  assert.ok(piecesOf("😀".repeat(30), 25).every((one) => one.length % 2 === 0));
  assert.deepEqual(piecesOf("short"), ["short"]);
  assert.deepEqual(piecesOf("  "), []);
});

test("samples are the same in whatever pieces their bytes come", () => {
  const bytes = new Uint8Array(new Int16Array([0, 16_384, -32_768, 32_767, -1]).buffer);
  for (const size of [1, 2, 3, 7, 10]) {
    const reader = new SampleReader();
    const found: number[] = [];
    for (let at = 0; at < bytes.length; at += size) found.push(...reader.push(bytes.subarray(at, at + size)));
    assert.deepEqual(found, [0, 0.5, -1, 32_767 / 32_768, -1 / 32_768]);
  }
});

test("sounds are kept until there are too many, the newest longest", () => {
  const kept = new Kept(10);
  const sound = () => [new Float32Array(2), new Float32Array(2)];
  for (const name of ["a", "b", "c"]) kept.add(name, sound());
  assert.equal(kept.get("a"), undefined);
  assert.equal(kept.get("b")?.length, 2);
  kept.add("b", sound());
  kept.add("d", sound());
  assert.equal(kept.get("c"), undefined);
  assert.ok(kept.get("b") && kept.get("d"));
});

test("commands of an error are found, each once, and nothing else in backticks", () => {
  assert.deepEqual(commandsIn("no model: run `deepwell pull kokoro`, or `deepwell pull kokoro`; see `x`"), ["deepwell pull kokoro"]);
  assert.deepEqual(commandsIn("运行 `pip install 'deepwell[speech]'`"), ["pip install 'deepwell[speech]'"]);
});
