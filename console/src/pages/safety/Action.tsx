import { texts } from "../../i18n";
import { en } from "./en";
import { zh } from "./zh";

const say = texts(en, zh);
const KINDS: Record<string, string> = { allow: "good", flag: "warn", redact: "warn", block: "bad" };
const ACTIONS = ["allow", "flag", "redact", "block"] as const;

/** What the guard does, in words, with the colour of its kind; its own name where the page does not know it. */
export function Action({ name }: { name: string }) {
  return <span class={`badge ${KINDS[name] ?? ""}`}>{actionOf(name)}</span>;
}

export function actionOf(name: string): string {
  const known = ACTIONS.find((one) => one === name);
  return known === undefined ? name : say(`action.${known}`);
}

const LAYERS = ["input", "context", "output"] as const;

/** What a layer of the guard reads, in words. */
export function layerOf(name: string | null): string {
  const known = LAYERS.find((one) => one === name);
  return known === undefined ? (name ?? "") : say(`layer.${known}`);
}
