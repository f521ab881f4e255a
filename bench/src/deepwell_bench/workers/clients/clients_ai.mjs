// The AI SDK against a running server, in both of its modes: the Responses API, which is its default, and chat completions.
//
//     node clients_ai.mjs HOME URL MODEL
//
// HOME is the folder whose node_modules have the SDK. Prints one line of JSON for each check, as clients_worker.py does.

import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [home, baseURL, name] = process.argv.slice(2);
const { resolve } = createRequire(join(home, "package.json"));
const load = (module) => import(pathToFileURL(resolve(module)));
const { embedMany, generateText, Output, stepCountIs, streamText, tool } = await load("ai");
const { createOpenAI } = await load("@ai-sdk/openai");
const { z } = await load("zod");

const QUESTION = "What is the weather in Paris?";
const provider = createOpenAI({ baseURL, apiKey: "none" });
const modes = { responses: provider(name), chat: provider.chat(name) };
const weather = z.object({ city: z.string().max(30), sky: z.enum(["clear", "cloudy", "rain"]) });
const getWeather = tool({
  description: "Current weather in a city.",
  inputSchema: z.object({ city: z.string().max(30) }),
  execute: async ({ city }) => `sunny in ${city}`,
});
const checks = [];

function assert(holds, message) {
  if (!holds) throw new Error(message);
}

for (const [mode, model] of Object.entries(modes)) {
  const asked = { model, temperature: 0, maxOutputTokens: 120, maxRetries: 0 };

  checks.push([`${mode}_generate`, async () => {
    const { text, usage } = await generateText({ ...asked, prompt: QUESTION });
    assert(text && usage.outputTokens > 0, "no text");
  }]);

  checks.push([`${mode}_stream_equals_generate`, async () => {
    let streamed = "";
    for await (const part of streamText({ ...asked, prompt: QUESTION }).textStream) streamed += part;
    const { text } = await generateText({ ...asked, prompt: QUESTION });
    assert(streamed === text, `${streamed} is not ${text}`);
  }]);

  checks.push([`${mode}_second_turn`, async () => {
    const messages = [{ role: "user", content: "Name a colour." }];
    const first = await generateText({ ...asked, messages });
    messages.push(...first.response.messages, { role: "user", content: "And another one." });
    const second = await generateText({ ...asked, messages });
    assert(second.text, "no text");
  }]);

  checks.push([`${mode}_tools`, async () => {
    const { steps } = await generateText({
      ...asked,
      prompt: QUESTION,
      tools: { getWeather },
      stopWhen: stepCountIs(2),
      prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber ? "none" : "required" }),
    });
    assert(steps.length === 2 && steps[0].toolResults.length > 0, `${steps.length} steps`);
    assert(steps[0].toolCalls[0].toolName === "getWeather" && steps[1].text, "no answer to the tool's result");
  }]);

  checks.push([`${mode}_tools_streamed`, async () => {
    const result = streamText({ ...asked, prompt: QUESTION, tools: { getWeather }, toolChoice: "required" });
    const kinds = new Set();
    for await (const part of result.fullStream) kinds.add(part.type);
    assert(kinds.has("tool-call") && kinds.has("tool-result"), [...kinds].join());
  }]);

  checks.push([`${mode}_structured_output`, async () => {
    const { output } = await generateText({
      ...asked, prompt: QUESTION, output: Output.object({ schema: weather }),
    });
    assert(weather.safeParse(output).success, JSON.stringify(output));
  }]);
}

checks.push(["embeddings", async () => {
  const model = provider.embedding(name);
  const { embeddings } = await embedMany({ model, values: ["a red apple", "a green apple"], maxRetries: 0 });
  assert(embeddings.length === 2 && embeddings[0].length > 100, "no vectors");
}]);

for (const [check, run] of checks) {
  let problem = "";
  try {
    await run();
  } catch (error) {
    problem = `${error?.name}: ${error?.message} ${error?.responseBody ?? ""}`.slice(0, 600);
  }
  console.log(JSON.stringify({ client: "ai-sdk", check, passed: !problem, problem }));
}
