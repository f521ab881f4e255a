import assert from "node:assert/strict";
import { test } from "node:test";
import { hearsEnglishAlone, knows, languageOf } from "../src/pages/chat/model/languages";

const CATALOG = [
  { id: "smollm2", languages: ["en"] },
  { id: "qwen", languages: ["zh", "en"] },
  { id: "bare", languages: [] },
];

test("a model knows what the catalog says of it or of the model that it stands on", () => {
  assert.equal(knows({ id: "smollm2" }, "zh", CATALOG), false);
  assert.equal(knows({ id: "smollm2" }, "en", CATALOG), true);
  assert.equal(knows({ id: "prod", parent: "smollm2" }, "zh", CATALOG), false);
  assert.equal(knows({ id: "qwen" }, "zh", CATALOG), true);
});

test("a model that the catalog says nothing of gets the benefit of the doubt", () => {
  assert.equal(knows({ id: "own" }, "zh", CATALOG), true);
  assert.equal(knows({ id: "bare" }, "zh", CATALOG), true);
  assert.equal(knows({ id: "smollm2" }, "zh", []), true);
});

test("a conversation is Chinese where the page or its last question is", () => {
  assert.equal(languageOf("zh", ""), "zh");
  assert.equal(languageOf("en", "中国的首都是哪里？"), "zh");
  assert.equal(languageOf("en", "Hello"), "en");
});

test("the microphone hears English alone where the default model does", () => {
  const heard = (id: string, more: object) => hearsEnglishAlone([{ id, kind: "recognition", ...more }]);
  assert.equal(heard("whisper-tiny.en", { default: true }), true);
  assert.equal(heard("whisper-tiny.en", {}), false);
  assert.equal(heard("whisper-base", { default: true }), false);
  assert.equal(hearsEnglishAlone([{ id: "smollm2.en" }]), false);
});
