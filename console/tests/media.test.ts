import assert from "node:assert/strict";
import { test } from "node:test";
import { isOtherMedium, mediaOf, mediumTypeOf, sizeOf } from "../src/pages/chat/model/media";
import { asText, chatBody, mediaSent, responsesBody, withAttachments } from "../src/pages/chat/model/request";
import { type Attachment, type Medium, type Message, NO_SETTINGS } from "../src/pages/chat/model/types";

const PICTURE: Medium = { name: "a.png", type: "image/png", data: "aGk=" };
const TUNE: Medium = { name: "b.mp3", type: "audio/mpeg", data: "aGkh" };
const NOTES: Attachment = { name: "n.md", text: "7" };
const SOUND = { type: "input_audio", input_audio: { data: "aGkh", format: "mp3" } };

const turn = (role: Message["role"], content: string, attachments?: Attachment[]): Message => ({
  id: content,
  conversation: "c",
  parent: null,
  role,
  content,
  created: 0,
  ...(attachments ? { attachments } : {}),
});
const contents = (body: Record<string, unknown>, of: "messages" | "input") => (body[of] as { content: unknown }[]).map((one) => one.content);

test("a kind is told by what the browser says, and by the ending where it says nothing", () => {
  const told = (name: string, type: string) => mediumTypeOf({ name, type });
  assert.equal(told("x", "image/jpg"), "image/jpeg");
  assert.equal(told("x", "audio/x-wav"), "audio/wav");
  assert.equal(told("x", "Audio/WAV; codecs=1"), "audio/wav");
  assert.equal(told("tune.MP3", ""), "audio/mpeg");
  assert.equal(told("notes.png", "text/plain"), null);
  assert.equal(told("constructor", ""), null);
  assert.equal(told("a.constructor", ""), null);
});

test("kinds that nothing reads are told from texts, and a drawing in SVG is a text", () => {
  const other = (type: string) => isOtherMedium({ name: "x", type });
  assert.deepEqual(["image/heic", "video/mp4", "audio/ogg"].map(other), [true, true, true]);
  assert.deepEqual(["image/svg+xml", "text/plain", "", "image/png"].map(other), [false, false, false, false]);
});

test("pictures and recordings are parts behind the text, and go along with every later turn", () => {
  const turns = [turn("user", "What?", [PICTURE, NOTES, TUNE]), turn("assistant", "A mark."), turn("user", "Sure?")];
  const url = "data:image/png;base64,aGk=";
  assert.deepEqual(contents(chatBody(NO_SETTINGS, turns), "messages"), [
    [{ type: "text", text: "What?\n\nn.md\n```\n7\n```" }, { type: "image_url", image_url: { url } }, SOUND],
    "A mark.",
    "Sure?",
  ]);
  assert.deepEqual(contents(responsesBody({ ...NO_SETTINGS, knowledge: "vs" }, turns), "input")[0], [
    { type: "input_text", text: "What?" },
    { type: "input_image", image_url: url },
    { type: "input_file", filename: "n.md", file_data: "data:text/plain;base64,Nw==" },
    SOUND,
  ]);
});

test("a picture without a word is sent without an empty text", () => {
  const turns = [turn("user", "", [TUNE])];
  assert.deepEqual(contents(chatBody(NO_SETTINGS, turns), "messages"), [[SOUND]]);
  assert.deepEqual(contents(responsesBody({ ...NO_SETTINGS, knowledge: "vs" }, turns), "input"), [[SOUND]]);
});

test("only what goes along counts against the limit", () => {
  const turns = [turn("user", "a", [PICTURE, TUNE]), turn("assistant", "b"), turn("user", "c", [PICTURE, NOTES])];
  assert.equal(mediaSent(NO_SETTINGS, turns), 3);
  assert.equal(mediaSent({ ...NO_SETTINGS, turns: 1 }, turns), 1);
});

test("a name stands for a picture where only text goes along", () => {
  const shared = turn("user", "", [PICTURE, NOTES]);
  assert.equal(asText(shared), "n.md\n```\n7\n```\n\n[a.png]");
  assert.equal(withAttachments("hi", mediaOf(shared.attachments)), "hi");
  assert.deepEqual([sizeOf(PICTURE), sizeOf(TUNE)], [2, 3]);
});
