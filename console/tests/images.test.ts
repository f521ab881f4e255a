import assert from "node:assert/strict";
import { test } from "node:test";
import type { Picture, Wish } from "../src/pages/images/types";
import { bodyOf, editForm, fileName, MAX_SEED, placeIn, pngOf, seedOf, squareIn, variationForm } from "../src/pages/images/wish";

const WISH: Wish = { prompt: " a red apple\n", size: "512x512", count: 2, seed: "7", quality: "low" };
const PICTURE: Picture = {
  id: 1,
  kind: "drawn",
  prompt: "a red apple",
  seed: 7,
  size: "256x256",
  drawn: "64x64",
  blob: new Blob(["x"]),
  url: "blob:x",
};

test("a seed is a whole number that the server takes, or random", () => {
  assert.equal(seedOf(" 12 "), 12);
  assert.equal(seedOf(""), undefined);
  assert.equal(seedOf(String(MAX_SEED)), MAX_SEED);
  for (const text of ["-1", "1.5", "x", String(MAX_SEED + 1), "99999999999999999"]) assert.equal(seedOf(text), null, text);
});

test("a request streams, and has a seed only if one is given", () => {
  assert.deepEqual(bodyOf(WISH), {
    prompt: "a red apple",
    n: 2,
    size: "512x512",
    quality: "low",
    seed: 7,
    stream: true,
    partial_images: 3,
  });
  assert.ok(!("seed" in bodyOf({ ...WISH, seed: " " })));
});

test("an edit has a mask, or says how much of the image is given up", () => {
  const whole = editForm(PICTURE.blob, PICTURE.size, { prompt: "a pear ", mask: null, strength: 0.5 });
  assert.deepEqual([whole.get("prompt"), whole.get("strength"), whole.get("size")], ["a pear", "0.5", "256x256"]);
  assert.equal(whole.get("mask"), null);
  const part = editForm(PICTURE.blob, PICTURE.size, { prompt: "a pear", mask: new Blob(["m"]), strength: 0.5 });
  assert.equal(part.get("strength"), null);
  assert.ok(part.get("mask") instanceof Blob);
  assert.deepEqual([...variationForm(PICTURE.blob, PICTURE.size).keys()], ["image", "size"]);
});

test("the square of an image lies between its bars", () => {
  assert.deepEqual(squareIn("1536x1024"), { x: 256, y: 0, side: 1024 });
  assert.deepEqual(squareIn("1024x1536"), { x: 0, y: 256, side: 1024 });
  assert.deepEqual(squareIn("256x256"), { x: 0, y: 0, side: 256 });
});

test("a download is named after its text and seed, in any script", () => {
  assert.equal(fileName({ prompt: "A red apple, please!", seed: 7 }), "a-red-apple-please-7.png");
  assert.equal(fileName({ prompt: "红色的苹果", seed: 1 }), "红色的苹果-1.png");
  assert.equal(fileName({ prompt: "../..", seed: 0 }), "image-0.png");
  assert.ok(fileName({ prompt: "word ".repeat(100), seed: 1 }).length < 60);
});

test("bytes come out of base64, and places out of the screen", async () => {
  assert.deepEqual([...new Uint8Array(await pngOf("AAH/").arrayBuffer())], [0, 1, 255]);
  const frame = { left: 10, top: 20, width: 100, height: 50 };
  assert.deepEqual(placeIn({ x: 60, y: 45 }, frame, { width: 1536, height: 1024 }), { x: 768, y: 512 });
});
