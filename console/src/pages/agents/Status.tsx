import { texts } from "../../i18n";
import { en } from "./en";
import type { RunStatus } from "./types";
import { zh } from "./zh";

const say = texts(en, zh);

/** The state of a run in words, with the colour of its kind. */
export function Status({ status }: { status: RunStatus }) {
  return <span class={`agents-status ${status}`}>{say(`status.${status}`)}</span>;
}
