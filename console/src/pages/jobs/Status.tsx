import { texts } from "../../i18n";
import type { Job } from "../../api/types";
import { en } from "./en";
import { zh } from "./zh";

const say = texts(en, zh);

/** The state of a job in words, with the colour of its kind. */
export function Status({ job }: { job: Job }) {
  const name = job.cancel_requested && !ended(job) ? "cancelling" : job.status;
  return <span class={`jobs-status ${job.status}`}>{say(`status.${name}`)}</span>;
}

export function ended(job: Job): boolean {
  return job.status === "succeeded" || job.status === "failed" || job.status === "cancelled";
}

const KINDS = ["batch", "ingest", "follow", "response", "model.pull", "model.updates", "compliance.check", "fine_tuning", "fine_tuning.paused", "eval.run", "compression", "prompts.optimise"] as const;

/** What a kind of job does, in words; its own name where the page does not know it. */
export function kindOf(kind: string): string {
  const known = KINDS.find((one) => one === kind);
  return known === undefined ? kind : say(`kind.${known}`);
}

/** What a job is about: the model or the prompt, with the name of the result; empty where its kind does not tell. */
export function aboutOf(job: Job): string {
  const { method, model = "", name, prompt } = job.subject ?? {};
  if (prompt !== undefined) return say("about.prompt", { prompt, model });
  if (method === undefined) return model;
  return say("about", { method: methodOf(method), what: name === undefined ? model : `${model} → ${name}` });
}

const METHODS = ["quantise", "prune", "convert"] as const;

/** A method of compression in words. */
export function methodOf(method: string): string {
  const known = METHODS.find((one) => one === method);
  return known === undefined ? method : say(`compress.${known}`);
}

const STEPS = ["activations", "layers", "candidates", "experts", "quantise", "recovery", "search"] as const;

/** A step in words; its own name where the page does not know it. */
export function stepOf(step: string): string {
  if (step === "held-out: donor") return say("step.held-out.donor");
  if (step === "held-out: result") return say("step.held-out.result");
  if (step === "held-out") return say("step.held-out");
  const known = STEPS.find((one) => one === step);
  return known === undefined ? step : say(`step.${known}`);
}
